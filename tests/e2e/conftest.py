"""A worker with the real model, and what a full prefill gives it; profiles of tiny models."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvquilt.integrations.transformers import Extent, KvquiltCache
from kvquilt.worker import ServedModel
from kvquilt_router.profiles import write_whole
from tests.router.profiles.calls import calibrated


class Reference:
    """Full prefills by the model itself, without kvquilt."""

    def __init__(self, loaded):
        self.loaded = loaded
        self.model = loaded.engine._runner.model
        self.tokenizer = loaded.tokenizer
        self.served = ServedModel(loaded.fingerprint, loaded.engine.traits.layout)
        self._caches = []

    def cache(self, client, **options):
        """Asks for whole prompts: what the router decides is not what tests of the mechanism are about."""
        cache = KvquiltCache(
            self.model, self.tokenizer, client.target, extent=Extent.PROMPT, served=self.served, **options
        )
        self._caches.append(cache)
        return cache

    def close(self):
        for cache in self._caches:
            cache.close()

    @torch.inference_mode()
    def next_logits(self, input_ids, cache=None):
        cache = DynamicCache() if cache is None else cache
        step = input_ids[:, cache.get_seq_length() :]
        return self.model(step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]

    @torch.inference_mode()
    def greedy(self, input_ids, cache=None, tokens=12, processors=None):
        output = self.model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            past_key_values=cache,
            logits_processor=processors,
            max_new_tokens=tokens,
            do_sample=False,
        )
        return output[0, input_ids.shape[1] :].tolist()

    def assert_equal(self, filled):
        """The worker's answer from a filled cache is the full prefill's."""
        expected = self.next_logits(filled.input_ids)
        kept = DynamicCache([(kv.keys.clone(), kv.values.clone()) for kv in filled.past_key_values.layers])
        got = self.next_logits(filled.input_ids, kept)
        assert float((got - expected).abs().max()) <= 1e-3
        assert self.greedy(filled.input_ids, filled.past_key_values) == self.greedy(filled.input_ids)

    def tokens(self, text):
        return np.asarray(self.loaded.tokenise(text))


@pytest.fixture(scope="session")
def reference(smollm2):
    reference = Reference(smollm2)
    yield reference
    reference.close()


@pytest.fixture(scope="module")
def profile(model, tmp_path_factory):
    """File of a codec profile of the module's own tiny model."""
    path = tmp_path_factory.mktemp("profiles") / "tiny.safetensors"
    write_whole(path, calibrated(model))
    return path
