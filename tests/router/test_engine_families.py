"""The engine on many model families: what it recomputes is what a full prefill computes."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvquilt_codec.errors import BadRequestError, UnsupportedModelError
from kvquilt_router.engine import Engine
from kvquilt_router.engine.blocks import BlockStructure
from tests.router.families import CONTEXT, REFUSED, SUPPORTED, TOKENS, filled, own_attention, relative, tiny


def test_recomputing_everything_equals_a_full_prefill(family):
    _, engine, ids, reference, _ = family
    kv = engine.empty(TOKENS)
    for layer in kv.layers:
        layer.keys.normal_()
        layer.values.normal_()
    engine.recompute(ids, kv, np.arange(TOKENS), lambda *_: None)
    for got, expected in zip(kv.layers, reference.layers, strict=True):
        assert relative(got.keys, expected.keys) < 1e-4
        assert relative(got.values, expected.values) < 1e-4


def test_recomputing_the_damaged_tokens_restores_the_prompt(family):
    model, engine, ids, reference, logits = family
    damaged = np.array([3, 9, 20, 41])
    kv = engine.empty(TOKENS - 1)
    for layer, expected in zip(kv.layers, reference.layers, strict=True):
        layer.keys.copy_(expected.keys[:, :, :-1])
        layer.values.copy_(expected.values[:, :, :-1])
        layer.keys[:, :, damaged] = 9.0
        layer.values[:, :, damaged] = 9.0
    engine.recompute(ids, kv, np.union1d(damaged, np.arange(CONTEXT, TOKENS - 1)), lambda *_: None)
    cache = DynamicCache([(layer.keys, layer.values) for layer in kv.layers])
    with torch.inference_mode():
        last = model(torch.tensor([[int(ids[-1])]]), past_key_values=cache, use_cache=True).logits[0, -1]
    assert float((last - logits[-1]).abs().max()) < 1e-3 * float(logits.abs().max())
    assert int(last.argmax()) == int(logits[-1].argmax())


def test_many_scattered_tokens_give_what_a_full_prefill_gives(family):
    """More queries than one block of attention has."""
    _, engine, _, _, _ = family
    ids = np.random.default_rng(2).integers(3, 500, 400).astype(np.uint32)
    expected = engine.prefill(ids)
    chosen = np.sort(np.random.default_rng(3).choice(400, 150, replace=False))
    kv = engine.empty(400)
    for layer, whole in zip(kv.layers, expected, strict=True):
        layer.keys.copy_(whole.keys)
        layer.values.copy_(whole.values)
        layer.keys[:, :, chosen] = 9.0
        layer.values[:, :, chosen] = 9.0
    engine.recompute(ids, kv, chosen, lambda *_: None)
    for got, whole in zip(kv.layers, expected, strict=True):
        assert relative(got.keys, whole.keys) < 1e-4
        assert relative(got.values, whole.values) < 1e-4


@pytest.mark.parametrize("unrotate", [True, False])
def test_moved_keys_equal_those_computed_at_position_8000(family, unrotate):
    model, engine, ids, _, _ = family
    chunk = engine.to_chunk(ids[:20], engine.prefill(ids[:20]), 0, unrotate=unrotate)
    kv = engine.empty(8020)
    kv.place(chunk, 8000)
    engine.rotate_placed(kv)
    there = DynamicCache()
    tokens = torch.from_numpy(ids[:20].astype(np.int64))[None]
    with torch.inference_mode():
        model.get_decoder()(
            input_ids=tokens, position_ids=torch.arange(8000, 8020)[None], past_key_values=there, use_cache=True
        )
    # Layer 0's keys depend on token and position alone: what differs there is the rotation.
    assert relative(kv.layers[0].keys[:, :, 8000:], there.layers[0].keys) < 1e-5
    for layer, expected in zip(kv.layers, there.layers, strict=True):
        assert relative(layer.keys[:, :, 8000:], expected.keys) < 2e-3  # deeper layers see the model's float32 angles


def test_a_chunk_computed_after_its_prefix_is_what_a_full_prefill_computes(family):
    _, engine, ids, reference, _ = family
    prefix = engine.prefill(ids[:16])
    for got, expected in zip(engine.prefill(ids[16:40], prefix), reference.layers, strict=True):
        assert relative(got.keys, expected.keys[:, :, 16:40]) < 1e-4
        assert relative(got.values, expected.values[:, :, 16:40]) < 1e-4


def test_value_deviation_is_zero_for_untouched_tokens_and_finds_the_damaged(family):
    _, engine, ids, reference, _ = family
    kv = filled(engine, reference)
    kv.layers[1].values[:, :, [5, 33]] += 1.0
    deviation = engine.value_deviation(ids, kv, CONTEXT, 1)
    assert sorted(np.argsort(-deviation)[:2]) == [5, 33]
    assert float(np.delete(deviation, [5, 33]).max()) < 1e-3 * float(deviation[5])
    # The fresh values of the first layers stay in place; layers above are untouched.
    assert relative(kv.layers[1].values, reference.layers[1].values) < 1e-4


def test_high_deviation_is_the_difference_of_values_and_the_attention_received(family):
    model, engine, ids, reference, _ = family
    kv = filled(engine, reference)
    kv.layers[2].values[:, :, [5, 33]] += 2.0
    kv.layers[3].values.zero_()
    deviation, column = engine.high_deviation(ids, kv, CONTEXT, 2)
    elements = kv.layers[2].values[0, :, 0].numel()
    np.testing.assert_allclose(deviation[[5, 33]], 2 * elements, rtol=1e-3)
    assert float(np.delete(deviation, [5, 33]).max()) < 1e-2
    np.testing.assert_allclose(column, own_attention(model, ids)[2].sum((0, 1))[:CONTEXT].numpy(), rtol=2e-3, atol=2e-4)
    assert relative(kv.layers[2].values, reference.layers[2].values) < 1e-4
    assert float(kv.layers[3].values.abs().max()) == 0  # the pass ended before


def test_question_attention_of_one_token_is_that_tokens(family):
    model, engine, ids, reference, _ = family
    kv = filled(engine, reference)
    got = engine.question_attention(ids[:TOKENS], _first(engine, kv, TOKENS - 1), TOKENS - 1)
    expected = own_attention(model, ids)[:, :, -1, :-1].sum((0, 1)).numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4)


def _first(engine, kv, tokens):
    part = engine.empty(tokens)
    for layer, source in zip(part.layers, kv.layers, strict=True):
        layer.keys.copy_(source.keys[:, :, :tokens])
        layer.values.copy_(source.values[:, :, :tokens])
    return part


def test_question_attention_is_the_attention_of_the_model_itself(family):
    model, engine, ids, reference, _ = family
    kv = engine.empty(TOKENS)
    for layer, expected in zip(kv.layers, reference.layers, strict=True):
        layer.keys[:, :, :CONTEXT].copy_(expected.keys[:, :, :CONTEXT])
        layer.values[:, :, :CONTEXT].copy_(expected.values[:, :, :CONTEXT])
    weights = np.random.default_rng(1).random((4, kv.layout.layers[0].kv_heads, CONTEXT)).astype(np.float32)
    plain, weighted = (engine.question_attention(ids, kv, CONTEXT, factors) for factors in (None, weights))
    implementation = model.config._attn_implementation
    expected = own_attention(model, ids)[:, :, CONTEXT:, :CONTEXT]
    np.testing.assert_allclose(plain, expected.sum((0, 1, 2)).numpy(), rtol=2e-3, atol=2e-4)
    per_head = expected.sum(2).unflatten(1, (weights.shape[1], -1)).sum(2)
    np.testing.assert_allclose(weighted, (per_head.numpy() * weights).sum((0, 1)), rtol=2e-3, atol=2e-4)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize(
    ("positions", "tokens", "options", "message"),
    [
        ([3, TOKENS], TOKENS, {}, "from 0 to 59"),
        ([-1, 3], TOKENS, {}, "from 0 to 59"),
        ([5, 3], TOKENS, {}, "ascending"),
        ([3, 3], TOKENS, {}, "each once"),
        ([3], TOKENS - 1, {}, "the 60 tokens"),
        ([3], TOKENS, {"context": TOKENS + 1}, "at most 60 tokens"),
        ([3], TOKENS, {"visible": BlockStructure(((0, TOKENS + 1),), ((),))}, "got an end at 61"),
        ([3], 16385, {}, "at most 16384 tokens"),
    ],
)
def test_a_recompute_that_does_not_fit_the_prompt_is_refused(positions, tokens, options, message):
    engine = Engine(tiny(*SUPPORTED["llama"]))
    kv = engine.empty(TOKENS)
    with pytest.raises(BadRequestError, match=message):
        engine.recompute(np.full(tokens, 3, np.uint32), kv, np.array(positions), lambda *_: None, **options)
    for layer in (-1, 4):
        with pytest.raises(BadRequestError, match="layer from 0 to 3"):
            engine.value_deviation(np.full(TOKENS, 3, np.uint32), kv, CONTEXT, layer)


@pytest.mark.parametrize("why", REFUSED)
def test_models_whose_chunks_cannot_be_moved_are_refused_with_the_reason(why):
    config, extra, word = REFUSED[why]
    with pytest.raises(UnsupportedModelError, match=word):
        Engine(tiny(config, extra))


def test_layers_without_rope_are_found_by_measurement():
    traits = Engine(tiny(*SUPPORTED["smollm3"])).traits
    assert traits.rotates == (True, True, True, False)


def test_windows_are_kept_per_layer():
    assert Engine(tiny(*SUPPORTED["gemma3"])).traits.windows == (24, None, 24, None)
    assert Engine(tiny(*SUPPORTED["mistral with a window"])).traits.windows == (24,) * 4
    assert Engine(tiny(*SUPPORTED["qwen2"])).traits.windows == (None,) * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_chunks_in_their_own_place_come_back_bit_for_bit(dtype):
    engine = Engine(tiny(*SUPPORTED["llama"], dtype))
    ids = np.random.default_rng(0).integers(3, 500, 40).astype(np.uint32)
    layers = engine.prefill(ids)
    chunk = engine.to_chunk(ids, layers, 0, unrotate=False)
    kv = engine.empty(40)
    kv.place(chunk, 0)
    engine.rotate_placed(kv)
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(kv.layers, layers, strict=True))
    # Moved there and back, each key has been rounded twice: within two units in the last place of the type.
    away = engine.empty(140)
    away.place(chunk, 100)
    engine.rotate_placed(away)
    again = relative(away.layers[0].keys[:, :, 100:].float(), engine_keys_at(engine, ids, 100))
    assert again < 2 * torch.finfo(dtype).eps


def engine_keys_at(engine, ids, begin):
    """Layer 0's keys as the model computes them at `begin` onwards."""
    filler = np.resize(ids, begin).astype(np.uint32)
    return engine.prefill(ids, engine.prefill(filler))[0].keys.float()
