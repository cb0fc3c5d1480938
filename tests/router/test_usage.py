"""What a request is told it saved, and what is summed up of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_router.counters import COUNTERS, USAGE
from kvquilt_router.gate.types import Decision
from kvquilt_router.types import BlendReport, Extent
from kvquilt_router.usage import NamespaceUsage, saved_seconds
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.values import Named


def report(exact=0, reused=0, recomputed=0, computed=1, *, total=0.0, rate=None):
    return BlendReport(
        None,  # type: ignore[arg-type]
        Decision("none", 0.0, None),
        [],
        exact,
        reused,
        recomputed,
        computed,
        seconds={"total": total},
        prefill_seconds_per_token=rate,
    )


def test_nothing_is_estimated_before_a_prefill_was_measured():
    assert saved_seconds(report(exact=100, total=1.0), 0.5, 0) is None


counts = st.integers(0, 100_000)
times = st.floats(0, 100)


@given(counts, counts, counts, counts, st.integers(1, 100), st.floats(1e-6, 1), times, times)
def test_all_that_stored_tokens_cost_is_taken_off_what_they_saved(
    exact, reused, recomputed, fresh, left, rate, beside, engine
):
    own = report(exact, reused, recomputed, fresh + left, total=engine + beside, rate=rate)
    saved = saved_seconds(own, engine, fresh)
    served = exact + reused + recomputed
    most = served * rate - beside
    assert most - engine - 1e-6 <= saved <= most + 1e-6
    if not recomputed and fresh:
        assert saved == pytest.approx(most, abs=1e-6), "the forward pass was for tokens that nobody had stored"
    if not fresh:
        assert saved == pytest.approx(most - engine, abs=1e-6), "all of it was for stored tokens"
    if not served:
        assert saved <= 1e-6


def test_losses_are_summed_apart_from_what_was_saved():
    overall = Counters(COUNTERS)
    usage = NamespaceUsage(overall)
    for namespace, seconds in (("a", 0.25), ("a", -0.1), ("b", -0.002), ("a", None)):
        own = report(exact=5, computed=2)
        own.saved_seconds = seconds
        usage.of(namespace).blended(own)
    usage.of("b").written(30, 4096)
    usage.of("b").add("puts_failed")
    sums = usage.snapshot()
    assert list(sums) == ["a", "b"]
    assert (sums["a"]["milliseconds_saved"], sums["a"]["milliseconds_lost"], sums["a"]["blends"]) == (250, 100, 3)
    assert (sums["b"]["milliseconds_lost"], sums["b"]["tokens_written"], sums["b"]["bytes_written"]) == (2, 30, 4096)
    assert "puts_failed" not in sums["b"]
    assert usage.snapshot(["b"]).keys() == {"b"}
    together = overall.snapshot()
    assert all(together[name] == sum(own[name] for own in sums.values()) for name in USAGE)
    assert together["puts_failed"] == 1
    usage.forget("a")
    assert usage.of("a").own.snapshot() == dict.fromkeys(sorted(USAGE), 0)


def test_series_of_metrics_never_go_back_and_are_whole_however_many_namespaces_there_are():
    overall = Counters(COUNTERS)
    usage = NamespaceUsage(overall, Named(3))
    before = usage.lasting()
    for number in [*range(1000), *range(1000)]:
        own = report(exact=number, computed=2)
        own.saved_seconds = 0.5
        usage.of(f"tenant-{number}").blended(own, Extent.EXACT)
        usage.forget(f"tenant-{number - 5}")
        now = usage.lasting()
        assert all(now[label][name] >= count for label, counts in before.items() for name, count in counts.items())
        before = now
    assert before.keys() == {"tenant-0", "tenant-1", "tenant-2", "other"}
    assert before["tenant-2"]["tokens_exact"] == 4, "what it did before it was forgotten counts"
    together = overall.snapshot()
    assert all(together[name] == sum(counts[name] for counts in before.values()) for name in USAGE)
