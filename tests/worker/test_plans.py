"""A plan says what the fetch after it brings, and picks what gives the earliest first token."""

import numpy as np
import pytest

from kvquilt.worker import Extent, KvToSave
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.estimates import Estimates, Way, earliest
from kvquilt_rpc.pace import Pace
from tests.stack import blobs, serve
from tests.worker.conftest import Worker, asked, tokens

PREFIX, FIRST, SECOND = 10, 150, 130
TEXT = tokens(PREFIX, FIRST, SECOND, 20)
SEGMENTS = {"prefix_tokens": PREFIX, "document_tokens": (FIRST, SECOND)}
SWAPPED = np.concatenate([TEXT[:10], TEXT[160:290], TEXT[10:160], TEXT[290:]])
SLOW, FAST = 10.0, 1e-9
"""Seconds a token: of a worker that would rather load, and of one that would rather compute."""


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    with serve(tiny_model, tmp_path_factory.mktemp("store"), chunk_tokens=64, background=False) as address:
        worker = Worker(tiny_model, address)
        worker.cache.save(KvToSave(asked(TEXT, **SEGMENTS), worker.computed(TEXT), exact_tokens=len(TEXT)))
        worker.cache.settle()
        yield worker
        worker.cache.close()


@pytest.mark.parametrize("computed", [0, 100, 290])
@pytest.mark.parametrize("extent", [Extent.PROMPT, Extent.EXACT, Extent.AUTO])
@pytest.mark.parametrize("seconds", [SLOW, FAST])
@pytest.mark.parametrize("order", ["as saved", "swapped", "unknown"])
def test_a_fetch_brings_what_was_planned(saved, computed, extent, seconds, order):
    text = {"as saved": TEXT, "swapped": SWAPPED, "unknown": tokens(310, seed=5)}[order]
    request = asked(text, extent=extent, computed_tokens=computed, seconds_per_token=seconds)
    plan, layers, report = saved.load(request)
    assert (plan.first_token, report.first_token) == (computed, computed)
    assert (report.complete, report.kv_tokens, report.extent) == (True, plan.kv_tokens, plan.extent)
    assert bool(layers) == bool(plan.tokens) == (not plan.reason)
    if layers:
        assert layers[0][0].shape[1] == plan.tokens
        assert report.report.tokens_reused + report.report.tokens_recomputed == plan.blended_tokens
        assert plan.exact == report.exact


def test_what_gives_the_earliest_first_token_is_offered(saved):
    def offered(text, seconds, **options):
        return saved.cache.plan(asked(text, seconds_per_token=seconds, **options), 30)

    saved.load(asked(TEXT, extent=Extent.EXACT, **SEGMENTS))  # so that loading and blending have been measured
    saved.load(asked(SWAPPED, extent=Extent.PROMPT, prefix_tokens=PREFIX, document_tokens=(SECOND, FIRST)))
    assert offered(TEXT, SLOW, **SEGMENTS).extent is Extent.EXACT
    swapped = {"prefix_tokens": PREFIX, "document_tokens": (SECOND, FIRST)}
    assert offered(SWAPPED, SLOW, **swapped).extent is Extent.PROMPT
    for text, segments in ((TEXT, SEGMENTS), (SWAPPED, swapped)):
        plan = offered(text, FAST, **segments)
        assert (plan.extent, plan.reason) == (Extent.NOTHING, "slower_than_computing")
        assert plan.compute_seconds == pytest.approx(FAST * len(text))
    plan = offered(tokens(300, seed=6), SLOW)
    assert (plan.extent, plan.reason) == (Extent.NOTHING, "nothing_stored")


def test_what_follows_the_last_stored_token_is_left_to_the_worker_unless_the_blend_needs_it(saved):
    swapped = {"prefix_tokens": PREFIX, "document_tokens": (SECOND, FIRST), "extent": Extent.PROMPT}
    stored = PREFIX + FIRST + SECOND
    plan, layers, report = saved.load(asked(SWAPPED, policy="none", recompute_ratio=0.0, **swapped))
    assert plan.kv_tokens == report.kv_tokens == stored
    assert report.report.tokens_reused == SECOND + FIRST
    plan, whole, report = saved.load(asked(SWAPPED, policy="question-deviation", recompute_ratio=0.1, **swapped))
    assert plan.kv_tokens == report.kv_tokens == len(SWAPPED) - 1
    assert report.report.tokens_recomputed > 0
    np.testing.assert_array_equal(layers[0][1], whole[0][1][:, :stored])
    # A text of which nothing is stored is computed here as before: that is what PROMPT asks for.
    plan, _, report = saved.load(asked(tokens(200, seed=12), policy="none", extent=Extent.PROMPT))
    assert plan.kv_tokens == report.kv_tokens == 199
    # And a document between two stored ones, but not one after them.
    new = tokens(40, seed=13)
    for text, lengths, end in (
        (np.concatenate([TEXT[:160], new, TEXT[160:]]), (FIRST, 40, SECOND), stored + 40),
        (np.concatenate([SWAPPED[:290], new, TEXT[290:]]), (SECOND, FIRST, 40), stored),
    ):
        request = asked(text, policy="none", prefix_tokens=PREFIX, document_tokens=lengths, extent=Extent.PROMPT)
        plan, layers, report = saved.load(request)
        assert plan.kv_tokens == report.kv_tokens == layers[0][0].shape[1] == end


def test_without_a_gate_only_exact_kv_is_offered(tiny_model, tmp_path):
    with serve(tiny_model, tmp_path, chunk_tokens=64, ungated=False, background=False) as address:
        worker = Worker(tiny_model, address)
        worker.cache.save(KvToSave(asked(TEXT, **SEGMENTS), worker.computed(TEXT), exact_tokens=len(TEXT)))
        worker.cache.settle()
        swapped = asked(SWAPPED, seconds_per_token=SLOW, prefix_tokens=PREFIX, document_tokens=(SECOND, FIRST))
        plan, _, report = worker.load(swapped)
        assert (plan.exact, report.exact) == (True, True)
        assert plan.kv_tokens <= PREFIX or plan.gate_refusal == "no_gate"
        plan, _, report = worker.load(asked(TEXT, seconds_per_token=SLOW, **SEGMENTS))
        assert (plan.extent, report.exact, report.complete) == (Extent.EXACT, True, True)
        # The first document as it was saved, then another prompt's text: why the second one is not blended is said.
        mixed = np.concatenate([TEXT[: PREFIX + FIRST], tokens(70, seed=8), TEXT[PREFIX + FIRST :]])
        parts = {"prefix_tokens": PREFIX, "document_tokens": (FIRST, 70, SECOND)}
        plan = worker.cache.plan(asked(mixed, seconds_per_token=SLOW, **parts), 30)
        assert (plan.exact_tokens, plan.exact, plan.gate_refusal) == (PREFIX + FIRST, True, "no_gate")
        worker.cache.close()


def test_what_is_lost_after_the_plan_makes_the_load_smaller_and_the_header_says_so(tiny_model, tmp_path):
    with serve(tiny_model, tmp_path, chunk_tokens=64) as address:
        worker = Worker(tiny_model, address)
        text = tokens(500)
        worker.cache.save(KvToSave(asked(text), worker.computed(text), exact_tokens=500))
        worker.cache.settle()
        request = asked(text, extent=Extent.EXACT)
        plan = worker.cache.plan(request, 30)
        whole = blobs(tmp_path)
        for path in whole[: len(whole) // 2]:
            path.write_bytes(b"damaged" + path.read_bytes()[7:])
        arrived = []
        report = worker.cache.fetch(request, plan, lambda layer, keys, _: arrived.append(keys.shape[1]), 30)
        assert report.complete
        assert report.kv_tokens < plan.kv_tokens
        assert set(arrived) <= {report.kv_tokens}
        assert worker.cache.counters()["loads_less"] == 1
        worker.cache.close()


def test_a_fresh_router_gives_what_is_stored_and_learns_from_it(tiny_model, tmp_path):
    """Nothing was measured, or only something small: neither says that what is stored comes too late."""
    with serve(tiny_model, tmp_path, chunk_tokens=64, background=False) as address:
        worker = Worker(tiny_model, address)
        worker.cache.save(KvToSave(asked(TEXT, **SEGMENTS), worker.computed(TEXT), exact_tokens=len(TEXT)))
        worker.cache.settle()
        assert worker.cache.plan(asked(TEXT, seconds_per_token=FAST, **SEGMENTS), 30).extent is Extent.EXACT
        small = np.concatenate([TEXT[:PREFIX], tokens(60, seed=9)])
        head = {"prefix_tokens": PREFIX, "document_tokens": (40,)}
        plan, _, report = worker.load(asked(small, seconds_per_token=SLOW, **head))
        assert (plan.load_seconds, report.kv_tokens) == (None, PREFIX)
        learned = worker.cache.plan(asked(small, seconds_per_token=SLOW, **head), 30)
        assert learned.load_seconds > 0
        # Computing all takes twice as long as that small load took, which is far less for each token.
        each = 2 * learned.load_seconds / len(TEXT)
        plan, _, report = worker.load(asked(TEXT, seconds_per_token=each, extent=Extent.AUTO, **SEGMENTS))
        assert (plan.extent, plan.reason, report.kv_tokens) == (Extent.EXACT, "", plan.kv_tokens)
        refused = worker.cache.plan(asked(TEXT, seconds_per_token=FAST, **SEGMENTS), 30)
        assert refused.reason == "slower_than_computing"
        worker.cache.close()


def test_the_earliest_way_is_taken_and_what_was_never_measured_is_tried():
    def choice(*seconds):
        return earliest([Way(None, each, 10) for each in seconds])

    assert choice(1.0, 0.5, 0.4) == 2
    assert choice(1.0, 0.5, 0.46) == 1  # what costs the router more must gain a tenth
    assert choice(1.0, 0.95) == 0
    assert choice(1.0, None) == 1
    assert choice(None, 0.5) == 1
    assert choice(1.0) == 0


def test_of_two_that_load_the_one_that_costs_the_router_more_must_compute_clearly_less_if_no_time_is_known():
    def choice(head, blend):
        return earliest([Way(0.0, 1.0, 1000), Way(None, None, head), Way(None, None, blend)])

    assert choice(600, 20) == 2
    assert choice(110, 20) == 1
    assert choice(0, 20) == 1


def test_estimates_follow_from_measured_costs():
    thread = EngineThread()
    estimates = Estimates(4, thread, Pace())
    assert estimates.head(100, 10, 0.1) == Way(None, None, 10)
    assert estimates.blend(100, 10, 5, 0.1) == Way(None, None, 15)
    estimates.heads.measured(2.0, 100)
    assert estimates.head(50, 10, 0.1) == Way(pytest.approx(1.0), pytest.approx(2.0), 10)
    assert estimates.computing(60, 0.1) == Way(0.0, pytest.approx(6.0), 60)
    estimates.chunks.measured(1.0, 100)
    estimates.computes.measured(4.0, 10)
    assert estimates.blend(100, 10, 5, 0.1) == Way(pytest.approx(5.0), pytest.approx(5.5), 15)
    estimates.prefill.measured(4.0, 10, 4)
    assert estimates.seconds_per_token == pytest.approx(0.4)
    thread.close()
