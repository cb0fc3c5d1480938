"""Offsets of stored KV, learned from one request and used in another."""

import numpy as np
import pytest

from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.policies import AnchorPool, AnchorPools, policy_by_name
from kvquilt_router.policies.anchor_pool import SpanKV
from kvquilt_router.selection import ReusedChunk
from kvquilt_router.types import Prompt
from tests.router.families import SUPPORTED, tiny

LAYERS, HEADS, DIM = 3, 2, 4


def span(tokens=6, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    draw = [rng.standard_normal((2, HEADS, tokens, DIM)).astype(np.float32) + np.float32(shift) for _ in range(LAYERS)]
    return SpanKV(tuple(keys for keys, _ in draw), tuple(values for _, values in draw))


def moved(base, by):
    return SpanKV(tuple(keys + np.float32(by) for keys in base.keys), tuple(v - np.float32(by) for v in base.values))


def pool_of(*bases, by=0.5, **limits):
    pool = AnchorPool(**limits)
    for base in bases:
        pool.add(base, moved(base, by))
    return pool


def test_nothing_is_estimated_from_fewer_than_two_anchors_that_are_long_enough():
    base = span()
    assert pool_of().estimate(base) is None
    assert pool_of(base).estimate(base) is None
    assert pool_of(base, span(5)).estimate(base) is None
    assert pool_of(base, span(7, 9.0, 1)).estimate(base) is not None


def test_a_text_seen_before_gets_its_own_offset_and_layer_zero_stays():
    base = span()
    estimated = pool_of(base, span(8, 30.0, 1)).estimate(base)
    for index, (got, was) in enumerate(zip(estimated.keys, base.keys, strict=True)):
        np.testing.assert_allclose(got - was, 0.0 if index == 0 else 0.5, atol=1e-2)
    assert np.array_equal(estimated.keys[0], base.keys[0])
    assert np.array_equal(estimated.values[0], base.values[0])
    np.testing.assert_allclose(estimated.values[2] - base.values[2], -0.5, atol=1e-2)


def test_offsets_are_weighted_by_likeness_token_by_token():
    base = span(2)
    near_first = SpanKV(tuple(k.copy() for k in base.keys), tuple(v.copy() for v in base.values))
    near_second = SpanKV(tuple(k.copy() for k in base.keys), tuple(v.copy() for v in base.values))
    for layer in range(LAYERS):
        near_first.keys[layer][:, 1] += 50
        near_second.keys[layer][:, 0] += 50
    pool = AnchorPool(entropy_limit=2.0)  # the values are alike: only an open gate lets them through
    pool.add(near_first, moved(near_first, 1.0))
    pool.add(near_second, moved(near_second, -1.0))
    shift = pool.estimate(base).keys[1] - base.keys[1]
    np.testing.assert_allclose(shift[:, 0], 1.0, atol=1e-2)
    np.testing.assert_allclose(shift[:, 1], -1.0, atol=1e-2)


def test_the_gate_refuses_where_the_anchors_cannot_be_told_apart():
    base, twin = span(), span()
    assert pool_of(base, twin).estimate(base) is None
    assert pool_of(base, twin, entropy_limit=1.01).estimate(base) is not None


def test_values_that_are_no_numbers_are_refused():
    base = span()
    base.values[1][0, 0, 0] = np.nan
    assert pool_of(span(seed=1), span(seed=2)).estimate(base) is None


def test_the_least_activated_of_the_five_oldest_goes():
    bases = [span(4, 10.0 * number, number) for number in range(7)]
    pool = pool_of(*bases[:6], max_anchors=6)
    for used in (0, 1, 1, 3, 4, 5):
        assert pool.estimate(bases[used]) is not None
    assert [anchor.activations for anchor in pool.anchors] == [1, 2, 0, 1, 1, 1]
    third = pool.anchors[2]
    pool.add(bases[6], moved(bases[6], 1.0))
    assert third not in pool.anchors
    assert len(pool.anchors) == 6


def test_the_pool_keeps_to_its_bytes_and_keeps_the_newest():
    one = pool_of(span(4)).anchors[0].nbytes
    pool = pool_of(*(span(4, seed=number) for number in range(5)), capacity_bytes=2 * one)
    assert len(pool.anchors) == 2
    np.testing.assert_allclose(pool.anchors[-1].keys[0].astype(np.float32), span(4, seed=4).keys[0], rtol=1e-2)
    assert pool_of(span(4), capacity_bytes=one - 1).anchors == []


@pytest.fixture(scope="module", params=["llama", "smollm3", "gemma3"])
def engine(request):
    return Engine(tiny(*SUPPORTED[request.param]))


def blend(engine, pool, prompt, stored, policy="anchors"):
    """One blend of documents that are all at hand; the selection and the finished KV."""
    placed, begin = [], len(prompt.prefix)
    for chunk in stored:
        placed.append(PlacedChunk(chunk, ReusedChunk(begin, begin + chunk.tokens), False))
        begin += chunk.tokens
    assembly = Assembly(engine, prompt, placed)
    assembly.merge()
    selection = assembly.select(policy_by_name(policy, pool), assembly.problem(0.1))
    assembly.compute(selection, lambda *_: None)
    return selection, assembly.kv.layers


def distance(layers, whole, tokens):
    """Relative distance of the KV of some tokens from a full prefill's, over all layers."""
    squares = [
        float((got - expected)[:, :, tokens].square().sum() / expected[:, :, tokens].square().sum())
        for mine, theirs in zip(layers, whole, strict=True)
        for got, expected in ((mine.keys, theirs.keys), (mine.values, theirs.values))
    ]
    return float(np.sqrt(np.mean(squares)))


def test_a_cold_pool_computes_everything_and_a_warm_one_comes_nearer_without_computing(engine):
    rng = np.random.default_rng(0)
    prefix, question, *documents = (rng.integers(3, 500, n).astype(np.uint32) for n in (8, 6, 30, 30))
    after = engine.prefill(prefix)
    stored = [engine.to_chunk(tokens, engine.prefill(tokens, after), 8, unrotate=True) for tokens in documents]
    pool = AnchorPool()
    prompt = Prompt(prefix, tuple(documents), question)
    whole = engine.prefill(prompt.token_ids[:-1])
    cold, computed = blend(engine, pool, prompt, stored)
    assert cold.positions.tolist() == list(range(8, 68))
    assert distance(computed, whole, slice(0, 73)) < 1e-4
    assert len(pool.anchors) == 2
    warm, estimated = blend(engine, pool, prompt, stored)
    assert warm.positions.size == 0
    assert len(pool.anchors) == 2
    _, reused = blend(engine, pool, prompt, stored, policy="none")
    second = slice(38, 68)  # the first one's context did not change in truth, so its offset is zero
    assert distance(estimated, whole, second) < 0.8 * distance(reused, whole, second)


def test_reading_and_writing_without_positions_comes_back(engine):
    ids = np.random.default_rng(1).integers(3, 500, 40).astype(np.uint32)
    kv = engine.empty(40)
    chunk = engine.to_chunk(ids, engine.prefill(ids), 0, unrotate=True)
    kv.place(chunk, 0)
    engine.rotate_placed(kv)
    view = engine.view(kv)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in kv.layers]
    for layer in range(view.layers):
        keys, values = view.read(layer, 10, 30)
        np.testing.assert_allclose(keys, chunk.keys[layer][10:30].transpose(1, 0, 2), atol=1e-5)
        view.write(layer, 10, keys + 1, values + 1)
        changed, _ = view.read(layer, 10, 30)
        np.testing.assert_allclose(changed, keys + 1, atol=1e-5)
        view.write(layer, 10, keys, values)
        assert float((kv.layers[layer].keys - before[layer][0]).abs().max()) < 1e-5
        assert float((kv.layers[layer].values - before[layer][1]).abs().max()) == 0


def learned(pool, *bases):
    for base in bases:
        pool.add(base, moved(base, 0.5))


def test_pools_of_namespaces_share_memory_and_nothing_else():
    size = _bytes_of(span())
    pools = AnchorPools(5 * size)
    a, b = pools.of("a"), pools.of("b")
    learned(a, span(), span(seed=1), span(seed=2))
    assert b.estimate(span()) is None
    learned(b, span(), span(seed=1))
    assert (len(a.anchors), len(b.anchors)) == (3, 2)
    learned(b, span(seed=2))
    assert (len(a.anchors), len(b.anchors)) == (2, 3), "whoever learned the longest ago makes room"
    learned(a, span(seed=3))
    assert (len(a.anchors), len(b.anchors)) == (3, 2)
    pools.forget("a")
    assert pools.of("a").anchors == []
    learned(a, span(seed=4))  # a blend that still runs
    assert len(b.anchors) == 2


def _bytes_of(base):
    pool = AnchorPool()
    learned(pool, base)
    return pool.anchors[0].nbytes
