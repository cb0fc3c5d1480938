"""An exact prefix changes nothing: the same call on stored KV gives the same bits, on every model family."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.types import Level, VariantKind
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from tests.router.families import SUPPORTED, tiny
from tests.texts import PASSAGES, QUESTION


def logits(model, token_ids, kept: list[LayerTensors]) -> torch.Tensor:
    cache = DynamicCache([(layer.keys.clone(), layer.values.clone()) for layer in kept])
    tokens = torch.from_numpy(token_ids.astype(np.int64))[None]
    with torch.inference_mode():
        return model(tokens, past_key_values=cache, use_cache=True).logits[0]


def from_the_codec(engine, fingerprint, context, layers) -> list[LayerTensors]:
    """A context's KV as it comes back when it was stored losslessly."""
    chunk = engine.to_chunk(context, layers, 0, unrotate=False)
    identity = ChunkIdentity(fingerprint, b"k" * 32, VariantKind.EXACT, b"c" * 32)
    stored = container.encode(chunk, Level.LOSSLESS, identity)
    kv = engine.empty(len(context))
    kv.place(container.decode(stored, fingerprint).chunk(), 0)
    engine.rotate_placed(kv)
    return kv.layers


def test_an_exact_prefix_from_the_codec_is_bit_equal(smollm2):
    engine, model = smollm2.engine, smollm2.engine._runner.model
    context = smollm2.tokenise(PASSAGES[0] + PASSAGES[1])
    question = smollm2.tokenise(QUESTION)
    layers = engine.prefill(context)
    kept = from_the_codec(engine, smollm2.fingerprint, context, layers)
    assert torch.equal(logits(model, question, kept), logits(model, question, layers))


@pytest.mark.parametrize("family", SUPPORTED)
def test_an_exact_prefix_is_bit_equal_on_every_family(family):
    model = tiny(*SUPPORTED[family])
    engine = Engine(model)
    ids = np.random.default_rng(0).integers(3, 500, 80).astype(np.uint32)
    layers = engine.prefill(ids[:60])
    kept = from_the_codec(engine, "f" * 64, ids[:60], layers)
    assert torch.equal(logits(model, ids[60:], kept), logits(model, ids[60:], layers))


def test_the_scattering_pass_over_an_exact_prefix_is_bit_equal_for_the_same_shapes(smollm2):
    engine = smollm2.engine
    context = smollm2.tokenise(PASSAGES[0])
    ids = np.concatenate([context, smollm2.tokenise(QUESTION)])
    layers = engine.prefill(context)
    question = np.arange(len(context), len(ids))

    def computed() -> list[LayerTensors]:
        kv = engine.empty(len(ids))
        kv.place(engine.to_chunk(context, layers, 0, unrotate=False), 0)
        engine.rotate_placed(kv)
        engine.recompute(ids, kv, question, lambda *_: None)
        return kv.layers

    first, second = computed(), computed()
    appended = engine.prefill(ids[len(context) :], layers)
    for a, b, c in zip(first, second, appended, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)
        # The appending pass of the same tokens after the same prefix: the same shapes, the same bits.
        assert torch.equal(a.keys[:, :, len(context) :], c.keys)
        assert torch.equal(a.values[:, :, len(context) :], c.values)
