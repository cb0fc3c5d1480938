"""Fixtures of the router's tests."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvquilt_router.engine import Engine
from tests.router.families import SUPPORTED, TOKENS, tiny


@pytest.fixture(scope="module", params=SUPPORTED, ids=lambda name: name.replace(" ", "-"))
def family(request):
    """A tiny model, its engine, a prompt, and what a full prefill of the prompt computes: its cache and logits."""
    model = tiny(*SUPPORTED[request.param])
    ids = np.random.default_rng(0).integers(3, 500, TOKENS).astype(np.uint32)
    cache = DynamicCache()
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None], past_key_values=cache, use_cache=True).logits[0]
    return model, Engine(model), ids, cache, logits
