"""An exact prefix changes nothing: the same call on stored KV gives the same bits."""

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.types import Level, VariantKind
from kvquilt_router.engine.kv import LayerTensors
from tests.texts import PASSAGES, QUESTION


def test_an_exact_prefix_from_the_codec_is_bit_equal(smollm2):
    engine, model = smollm2.engine, smollm2.engine._runner.model
    context = smollm2.tokenise(PASSAGES[0] + PASSAGES[1])
    question = smollm2.tokenise(QUESTION)
    layers = engine.prefill(context)
    chunk = engine.to_chunk(context, layers, 0, unrotate=False)
    identity = ChunkIdentity(smollm2.fingerprint, b"k" * 32, VariantKind.EXACT, b"c" * 32)
    stored = container.encode(chunk, Level.LOSSLESS, identity)
    kv = engine.empty(len(context))
    kv.place(container.decode(stored, smollm2.fingerprint).chunk(), 0)
    engine.rotate_placed(kv)

    def logits(kept: list[LayerTensors]) -> torch.Tensor:
        cache = DynamicCache([(layer.keys.clone(), layer.values.clone()) for layer in kept])
        tokens = torch.from_numpy(question.astype(np.int64))[None]
        with torch.inference_mode():
            return model(tokens, past_key_values=cache, use_cache=True).logits[0]

    assert torch.equal(logits(kv.layers), logits(layers))


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
