"""Chunks computed after a prefix: attention sums, several in one pass, and which share a pass; on every family."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.engine import Engine
from kvquilt_router.engine.packing import pack
from tests.router.families import SUPPORTED, TOKENS, own_attention, relative, tiny

SPANS = ((0, 7), (7, 30), (30, 35))


def test_attention_sums_are_those_of_the_model_itself(family):
    model, engine, ids, _, _ = family
    begin = 40
    prefix = engine.prefill(ids[:begin])
    layers, sums = engine.prefill_observed(ids[begin:], prefix, SPANS)
    attention = own_attention(model, ids)[:, :, begin:].mean((0, 1)).numpy()
    for index, (first, last) in enumerate(SPANS):
        np.testing.assert_allclose(sums.inter[index], attention[:, first:last].sum(1), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(sums.intra, attention[:, begin:].sum(1), rtol=2e-3, atol=1e-5)
    for got, plain in zip(layers, engine.prefill(ids[begin:], prefix), strict=True):
        assert relative(got.keys, plain.keys) < 1e-6
        assert relative(got.values, plain.values) < 1e-6


@pytest.mark.parametrize("prefix_tokens", [0, 13])
def test_packed_chunks_equal_chunks_computed_one_by_one(family, prefix_tokens):
    _, engine, ids, _, _ = family
    prefix = engine.prefill(ids[:prefix_tokens]) if prefix_tokens else ()
    chunks = [ids[13:48], ids[20:21], ids[5:40]]  # longer than the windows of those families that have some
    packed = engine.prefill_packed(chunks, prefix)
    for chunk, got in zip(chunks, packed, strict=True):
        for layer, plain in zip(got, engine.prefill(chunk, prefix), strict=True):
            assert relative(layer.keys, plain.keys) < 1e-5
            assert relative(layer.values, plain.values) < 1e-5


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny(*SUPPORTED["llama"]))


def test_what_cannot_be_computed_is_refused(engine):
    ids = np.arange(3, 3 + TOKENS).astype(np.uint32)
    prefix = engine.prefill(ids[:10])
    for span in ((0, 11), (-1, 4), (4, 4)):
        with pytest.raises(BadRequestError, match="10 tokens before the chunk"):
            engine.prefill_observed(ids, prefix, [span])
    for chunks in ([], [ids, ids[:0]]):
        with pytest.raises(BadRequestError, match="at least 1 token"):
            engine.prefill_packed(chunks, prefix)
    long = np.resize(ids, engine.traits.max_context - 9).astype(np.uint32)
    with pytest.raises(BadRequestError, match="16384") as caught:
        engine.prefill_packed([ids, long], prefix)
    assert caught.value.reason == "prompt_too_long"


@given(st.lists(st.integers(1, 120), max_size=40), st.integers(1, 100))
def test_every_chunk_is_in_one_pass_and_passes_keep_the_limit_and_the_bound(lengths, limit):
    passes = pack(lengths, limit)
    assert sorted(index for indices in passes for index in indices) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in indices) for indices in passes]
    assert all(load <= limit or len(indices) == 1 for load, indices in zip(loads, passes, strict=True))
    # No two passes could be one, but for the chunks that are too long: so fewer than twice the passes that must be.
    fitting = sorted(load for load in loads if load <= limit)
    assert all(a + b > limit for a, b in itertools.pairwise(fitting))
    assert len(fitting) <= max(1, 2 * math.ceil(sum(fitting) / limit))


def test_chunks_are_packed_first_fit_decreasing():
    assert pack([3, 7, 5, 5], 10) == [[1, 0], [2, 3]]
    with pytest.raises(BadRequestError, match="at least 1 token"):
        pack([3, 0], 10)
    with pytest.raises(BadRequestError, match="passes of at least 1"):
        pack([3], 0)
