"""The longest stored head is found whatever boundaries it was saved with, by no more look-ups."""

from collections import Counter

import numpy as np
import pytest

from kvquilt.worker import Extent, KvToSave
from kvquilt_rpc.nodes.pool import NodePool
from tests.worker.conftest import asked, assert_layers, tokens

SLOW = 10.0
TEXT = tokens(10, 150, 130, 120)
SEGMENTS = {"prefix_tokens": 10, "document_tokens": (150, 130)}
OTHERWISE = {"prefix_tokens": 10, "document_tokens": (200, 80)}


def save(worker, text, begin=0, **segments):
    layers = worker.computed(text)
    cut = [tuple(np.ascontiguousarray(array[:, begin:]) for array in layer) for layer in layers]
    assert worker.cache.save(KvToSave(asked(text, **segments), cut, exact_tokens=len(text), begin=begin))
    worker.cache.settle()
    assert worker.cache.counters()["saves_failed"] == 0
    return layers


@pytest.fixture
def calls(monkeypatch):
    """How often the nodes' index is asked, by method."""
    counted = Counter()
    for name in ("stat", "find_variants", "find_chunks"):
        asks = getattr(NodePool, name)

        def counting(self, *args, _name=name, _asks=asks, **options):
            counted[_name] += 1
            return _asks(self, *args, **options)

        monkeypatch.setattr(NodePool, name, counting)
    return counted


def longer(text):
    return np.append(text, [5, 6, 7]).astype(np.uint32)


def test_saved_without_boundaries_it_is_found_with_any_by_one_look_up(worker, calls):
    layers = save(worker, TEXT)
    whole = worker.cache.plan(asked(longer(TEXT), extent=Extent.EXACT), 30)
    assert whole.kv_tokens > len(TEXT) - 64
    for segments in (SEGMENTS, OTHERWISE):
        calls.clear()
        plan, got, report = worker.load(asked(longer(TEXT), extent=Extent.EXACT, **segments))
        assert (plan.kv_tokens, plan.exact_tokens, report.exact) == (whole.kv_tokens, whole.kv_tokens, True)
        assert plan.stored_tokens < plan.exact_tokens
        assert calls == {"stat": 2}, "one of the plan, one of the fetch"
        assert_layers(got, layers, 0, plan.kv_tokens)


@pytest.mark.parametrize("segments", [{}, OTHERWISE], ids=["none", "others"])
def test_saved_with_boundaries_it_is_found_with_others_by_the_look_ups_of_the_blend(worker, calls, segments):
    layers = save(worker, TEXT, **SEGMENTS)
    calls.clear()
    worker.cache.plan(asked(longer(TEXT), extent=Extent.PROMPT, **segments), 30)
    of_blend = Counter(calls)
    calls.clear()
    plan, got, report = worker.load(asked(longer(TEXT), seconds_per_token=SLOW, **segments))
    # Of other documents up to the last stored chunk before one's end that a stored chunk crosses.
    assert plan.exact_tokens >= (160 if segments else 290)
    if not segments:
        assert (plan.extent, report.exact, report.kv_tokens) == (Extent.EXACT, True, plan.kv_tokens)
        assert_layers(got, layers, 0, plan.kv_tokens)
    once = of_blend + Counter(stat=1)
    assert calls == once + once, "one look-up beside the blend's, in the plan and in the fetch"


def test_what_is_saved_behind_a_head_of_other_boundaries_leaves_no_gap(worker):
    """A save begins where its own chunks do, so that the next turn finds all of it, though its head was another's."""
    save(worker, TEXT, **SEGMENTS)
    text = tokens(10, 150, 130, 120, 300)
    np.testing.assert_array_equal(text[: len(TEXT)], TEXT)
    for extent in (Extent.AUTO, Extent.EXACT):
        plan = worker.cache.plan(asked(text, extent=extent, seconds_per_token=SLOW), 30)
        assert plan.stored_tokens <= plan.exact_tokens
        save(worker, text, begin=plan.stored_tokens)
        again = worker.cache.plan(asked(longer(text), extent=Extent.EXACT), 30)
        assert again.stored_tokens == again.exact_tokens == again.kv_tokens > len(text) - 64


def test_public_segments_are_found_by_their_own_boundaries_only(worker):
    """Across them nobody can tell whose a piece is: it is a tenant's, and is not looked for under a public key."""
    save(worker, TEXT)
    public = {**SEGMENTS, "public": frozenset({0, 1})}
    plan = worker.cache.plan(asked(longer(TEXT), extent=Extent.EXACT, **public), 30)
    assert plan.exact_tokens <= 10
