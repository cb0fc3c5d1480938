"""Layer-wise filtering: which tokens a recompute still computes, layer by layer, on every family."""

import numpy as np
import pytest
import torch

from kvquilt_codec.errors import BadRequestError, UnsupportedModelError
from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.selection import ReusedChunk, Selection
from kvquilt_router.types import Prompt
from tests.router.families import CONTEXT, SUPPORTED, TOKENS, filled, own_attention, relative, tiny

CHOSEN = np.array([2, 3, 9, 20, 21, 30, 41, 48])
QUESTION = np.arange(CONTEXT, TOKENS)
POSITIONS = np.concatenate([CHOSEN, QUESTION])


class Plan:
    """A filter that keeps given positions after given layers, and notes what it saw."""

    def __init__(self, keeps=None, look=lambda view: None):
        self.keeps = keeps or {}
        self.look = look
        self.seen = {}

    def keep(self, view):
        self.seen[view.layer] = (view.positions, self.look(view))
        return np.isin(view.positions, self.keeps[view.layer]) if view.layer in self.keeps else None


def stored(engine, reference):
    """A prompt whose context holds KV of another context, and nothing yet for the question."""
    torch.manual_seed(1)
    kv = filled(engine, reference)
    for layer in kv.layers:
        for tensor in (layer.keys, layer.values):
            tensor[:, :, :CONTEXT] += 0.3 * tensor.std() * torch.randn_like(tensor[:, :, :CONTEXT])
            tensor[:, :, CONTEXT:] = 0
    return kv


def recomputed(engine, ids, kv, positions, layer_filter=None, **options):
    copy = filled(engine, kv)
    engine.recompute(ids, copy, positions, lambda *_: None, layer_filter=layer_filter, context=CONTEXT, **options)
    return copy


def assert_equal(a, b, layers=None, limit=1e-5):
    for one, other in list(zip(a.layers, b.layers, strict=True))[slice(layers)]:
        assert relative(one.keys, other.keys) < limit
        assert relative(one.values, other.values) < limit


def test_a_filter_that_keeps_everything_changes_nothing(family):
    _, engine, ids, reference, _ = family
    kv = stored(engine, reference)
    for positions in (POSITIONS, np.arange(TOKENS)):
        plain = recomputed(engine, ids, kv, positions)
        for plan in (Plan(), Plan({layer: np.arange(CONTEXT) for layer in range(4)})):
            assert_equal(recomputed(engine, ids, kv, positions, plan), plain)
            assert sorted(plan.seen) == [0, 1, 2]


def test_tokens_dropped_by_layer_two_keep_their_stored_kv_above_it(family):
    _, engine, ids, reference, _ = family
    kv = stored(engine, reference)
    plain = recomputed(engine, ids, kv, POSITIONS)
    dropped = recomputed(engine, ids, kv, POSITIONS, Plan({1: []}))
    assert_equal(dropped, plain, layers=2)
    for got, before in list(zip(dropped.layers, kv.layers, strict=True))[2:]:
        assert torch.equal(got.keys[:, :, :CONTEXT], before.keys[:, :, :CONTEXT])
        assert torch.equal(got.values[:, :, :CONTEXT], before.values[:, :, :CONTEXT])
    # The question, computed by the model's own appending pass after the context as it was left.
    context = [type(layer)(layer.keys[:, :, :CONTEXT], layer.values[:, :, :CONTEXT]) for layer in dropped.layers]
    for got, expected in zip(dropped.layers, engine.prefill(ids[CONTEXT:], context), strict=True):
        assert relative(got.keys[:, :, CONTEXT:], expected.keys) < 1e-5
        assert relative(got.values[:, :, CONTEXT:], expected.values) < 1e-5


def test_gradual_filtering_equals_one_plain_recompute_per_layer(family):
    _, engine, ids, reference, _ = family
    kv = stored(engine, reference)
    missing = CHOSEN[:2]
    sets = {0: CHOSEN[2:7], 1: CHOSEN[3:6], 2: CHOSEN[4:5]}
    plan = Plan(sets, lambda view: view.value_deviation())
    got = recomputed(engine, ids, kv, POSITIONS, plan, missing=missing)
    expected = filled(engine, kv)
    for layer, chosen in enumerate([CHOSEN[2:], *sets.values()]):
        # What is below is finished; above it, another set of tokens goes on from embeddings.
        run = recomputed(engine, ids, expected, np.concatenate([missing, chosen, QUESTION]))
        expected.layers[layer].keys.copy_(run.layers[layer].keys)
        expected.layers[layer].values.copy_(run.layers[layer].values)
        if layer in plan.seen:
            positions, deviation = plan.seen[layer]
            assert positions.tolist() == chosen.tolist()
            difference = run.layers[layer].values[:, :, chosen] - kv.layers[layer].values[:, :, chosen]
            np.testing.assert_allclose(deviation, difference.square().sum((0, 1, 3)).numpy(), rtol=1e-3)
    assert_equal(got, expected)


def test_a_view_shows_the_attention_of_the_model_itself(family):
    model, engine, ids, reference, _ = family
    plan = Plan({0: CHOSEN[1:]}, lambda view: view.question_attention())
    recomputed(engine, ids, filled(engine, reference), POSITIONS, plan)
    expected = own_attention(model, ids)[:, :, CONTEXT:, :CONTEXT].sum((1, 2)).numpy()
    for layer in range(3):
        np.testing.assert_allclose(plan.seen[layer][1], expected[layer], rtol=2e-3, atol=2e-4)


@pytest.fixture(scope="module")
def llama():
    model = tiny(*SUPPORTED["llama"])
    engine = Engine(model)
    ids = np.random.default_rng(0).integers(3, 500, TOKENS).astype(np.uint32)
    kv = engine.empty(TOKENS)
    engine.recompute(ids, kv, np.arange(TOKENS), lambda *_: None)
    return model, engine, ids, kv


def hooks(model):
    return sum(len(layer._forward_pre_hooks) for layer in model.get_decoder().layers)


def test_when_nobody_is_left_the_other_layers_are_finished_as_they_are(llama):
    model, engine, ids, kv = llama
    finished = []
    engine.recompute(
        ids, filled(engine, kv), CHOSEN, lambda index, _: finished.append(index), layer_filter=Plan({1: []})
    )
    assert finished == [0, 1, 2, 3]
    assert hooks(model) == 0


@pytest.mark.parametrize("answer", [np.ones(3, bool), np.ones(len(CHOSEN))])
def test_a_filter_that_answers_something_else_is_refused_and_leaves_no_hook(llama, answer):
    model, engine, ids, kv = llama
    plan = Plan()
    plan.keep = lambda view: answer
    implementation = model.config._attn_implementation
    with pytest.raises(BadRequestError, match="8 booleans"):
        recomputed(engine, ids, kv, POSITIONS, plan)
    assert hooks(model) == 0
    assert model.config._attn_implementation == implementation


def test_layers_that_are_given_what_cannot_be_narrowed_are_refused(llama):
    model, engine, ids, kv = llama
    odd = torch.zeros(2, 3, len(POSITIONS))
    layer = model.get_decoder().layers[2]
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: (args, {**kwargs, "odd": odd}), with_kwargs=True)
    try:
        with pytest.raises(UnsupportedModelError, match="'odd'"):
            recomputed(engine, ids, kv, POSITIONS, Plan({0: CHOSEN[1:]}))
    finally:
        hook.remove()


def test_a_decoder_whose_layers_are_not_all_in_view_is_refused(llama):
    _, _, ids, kv = llama
    model = tiny(*SUPPORTED["llama"])
    engine = Engine(model)
    model.get_decoder().layers = model.get_decoder().layers[:3]
    with pytest.raises(UnsupportedModelError, match="4 layers; got 3"):
        recomputed(engine, ids, kv, POSITIONS, Plan())


def test_attention_that_nobody_can_look_at_is_refused(llama, monkeypatch):
    model, engine, ids, kv = llama
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(UnsupportedModelError, match="attn_implementation='sdpa'"):
        engine.question_attention(ids, filled(engine, kv), CONTEXT)


def test_an_assembly_passes_the_filter_on_and_keeps_missing_tokens_from_it(llama):
    _, engine, ids, _ = llama
    chunk = engine.to_chunk(ids[10:30], engine.prefill(ids[10:30]), 0, unrotate=True)
    prompt = Prompt(ids[:10], (ids[10:30], ids[30:CONTEXT]), ids[CONTEXT:])
    assembly = Assembly(engine, prompt, [PlacedChunk(chunk, ReusedChunk(10, 30), exact=False)])
    assembly.merge()
    before = filled(engine, assembly.kv)
    plan = Plan({0: [12], 1: []})
    assembly.compute(Selection(np.arange(8, 16), plan), lambda *_: None)
    assert [positions.tolist() for positions, _ in plan.seen.values()] == [[10, 11, 12, 13, 14, 15], [12]]
    changed = [
        np.flatnonzero(((after.values - layer.values).abs().amax((0, 1, 3)) > 1e-4).numpy()).tolist()
        for after, layer in zip(assembly.kv.layers, before.layers, strict=True)
    ]
    others = [*range(10), *range(30, TOKENS - 1)]
    assert changed[0] == sorted([*others])  # values of layer 0 depend on the token alone
    assert changed[1] == sorted([*others, 12])
    assert changed[2] == changed[3] == others
