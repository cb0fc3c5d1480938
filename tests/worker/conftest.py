"""A worker with a tiny model, and a router beside it."""

import numpy as np
import pytest

from kvquilt.worker import ServedModel, WorkerCache, WorkerRequest
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import serve

LOSSLESS = {"level": "lossless"}


class Worker:
    """What an engine has: a model, and a cache client beside it."""

    def __init__(self, loaded, address, **options):
        self.loaded = loaded
        self.model = ServedModel(loaded.fingerprint, loaded.engine.traits.layout)
        self.address = address
        self.credentials = options.get("credentials")
        self.cache = WorkerCache(self.model, address, **options)

    def computed(self, tokens):
        """Keys and values of a full prefill, per layer `[kv_heads, tokens, dim]`."""
        engine = self.loaded.engine
        chunk = engine.to_chunk(tokens, engine.prefill(tokens), 0, unrotate=False)
        return [
            tuple(np.ascontiguousarray(array.transpose(1, 0, 2)) for array in layer)
            for layer in zip(chunk.keys, chunk.values, strict=True)
        ]

    def load(self, request, deadline=30.0, *, fetch_deadline=None, **options):
        """Plan and fetch, each within its deadline; the plan, the layers and the report."""
        plan = self.cache.plan(request, deadline)
        layers = {}

        def sink(layer, keys, values):
            layers[layer] = (keys, values)

        return plan, layers, self.cache.fetch(request, plan, sink, fetch_deadline or deadline, **options)


def tokens(*lengths, seed=0):
    """Random token ids."""
    return np.random.default_rng(seed).integers(3, 500, sum(lengths)).astype(np.uint32)


def asked(token_ids, **options):
    """A request at the lossless level."""
    return WorkerRequest(np.asarray(token_ids, np.uint32), **{**LOSSLESS, **options})


def assert_layers(layers, expected, first, end):
    """Layers hold exactly the expected KV of the tokens from `first` up to `end`."""
    assert list(layers) == list(range(len(expected)))
    for index, arrays in enumerate(expected):
        for got, whole in zip(layers[index], arrays, strict=True):
            np.testing.assert_array_equal(got.view(np.uint8), np.ascontiguousarray(whole[:, first:end]).view(np.uint8))


@pytest.fixture(scope="session")
def tiny_model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture
def worker(tiny_model, tmp_path):
    patient = {"stat_deadline": 30.0, "fetch_deadline": 30.0}  # on a busy machine too nothing is missed for its time
    with serve(tiny_model, tmp_path, chunk_tokens=64, **patient) as address:
        found = Worker(tiny_model, address)
        yield found
        found.cache.close()
