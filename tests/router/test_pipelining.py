"""When a blend begins before its chunks have come, and at which ratio."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.levels import LOSSLESS_POINT
from kvquilt_router.arriving import Abandoned, Arrivals
from kvquilt_router.gate.choose import choose, raised
from kvquilt_router.pipelining import balanced_ratio, keeps_up
from kvquilt_rpc.pace import Pace

RATIOS = st.lists(st.floats(0, 1), max_size=6)
SECONDS = st.floats(0, 100)


@given(st.floats(0, 1), RATIOS, SECONDS, SECONDS, st.floats(1e-6, 1), st.integers(0, 10_000))
def test_a_balanced_ratio_is_measured_bounded_and_grows_with_the_load(minimum, measured, less, more, cost, tokens):
    less, more = sorted([less, more])
    ratio = balanced_ratio(minimum, measured, less, cost, tokens)
    assert ratio in (minimum, *measured)
    assert minimum <= ratio <= max([minimum, *measured])
    assert ratio <= balanced_ratio(minimum, measured, more, cost, tokens)
    assert ratio == minimum or ratio * cost * tokens <= less * (1 + 1e-9)


def test_a_ratio_is_raised_while_loading_takes_longer_than_computing():
    assert balanced_ratio(0.1, [0.2, 0.4], 0.0, 0.001, 1000) == 0.1
    assert balanced_ratio(0.1, [0.2, 0.4], 0.3, 0.001, 1000) == 0.2
    assert balanced_ratio(0.1, [0.2, 0.4], 9.0, 0.001, 1000) == 0.4
    assert balanced_ratio(0.1, [], 9.0, 0.001, 1000) == 0.1


def test_only_ratios_that_were_measured_within_the_limit_are_better():
    def point(policy, ratio, context, upper):
        return GatePoint(policy, ratio, context, "high", 8, upper / 10, upper, 0.9, 0.1 + ratio)

    points = [point("none", 0.0, "exact", 0.01)]
    points += [
        point("random", ratio, "warm", upper) for ratio, upper in ((0.1, 0.2), (0.2, 0.1), (0.3, 0.9), (0.4, 0.1))
    ]
    points += [point("random", ratio, "base", 0.2) for ratio in (0.1, 0.2, 0.4)]
    points += [point("question", 0.5, "warm", 0.1)]
    gate = Gate("0" * 64, "1" * 64, 16, 0.95, 0.9, "made by hand", tuple(points))
    decision = choose(gate, "high", {"warm"}, 0.25, policy="random")
    assert decision.recompute_ratio == 0.1

    def ratios(contexts, limit, withdrawn=()):
        return [better.recompute_ratio for better in raised(gate, "high", contexts, limit, decision, withdrawn)]

    assert ratios({"warm"}, 0.25) == [0.2, 0.4]
    assert ratios({"warm", "exact"}, 1.0) == [0.2, 0.3, 0.4]
    assert ratios({"warm", "base"}, 1.0) == [0.2, 0.4]
    assert ratios({"exact"}, 0.25) == []
    assert ratios({"warm"}, 0.25, {points[2].key}) == [0.4]
    refused = choose(gate, "high", {"warm"}, 0.01, policy="random")
    assert raised(gate, "high", {"warm"}, 1.0, refused) == []


@given(st.lists(SECONDS, min_size=1, max_size=8), SECONDS)
def test_the_engine_keeps_up_if_simulated_it_never_waits(seconds_until, per_layer):
    clock = waits = 0.0
    for until in seconds_until:
        waits += max(0.0, until - clock)
        clock = max(clock, until) + per_layer
    if keeps_up(seconds_until, per_layer):
        assert waits <= 1e-9 * (1 + clock)
    else:
        assert waits > 0


def test_the_pace_follows_newer_measurements():
    pace = Pace()
    pace.measured(1.0, 0, 30)
    assert pace.seconds is None
    pace.measured(3.0, 100, 30)
    assert pace.seconds == pytest.approx(0.001)
    for _ in range(50):
        pace.measured(6.0, 100, 30)
    assert pace.seconds == pytest.approx(0.002, rel=1e-3)


KEY = (b"key", LOSSLESS_POINT)


def test_whoever_waits_for_a_layer_gets_it_or_the_end():
    async def arriving():
        return Arrivals([KEY], 2, 60.0)

    arrivals = asyncio.run(arriving())
    chunk = arrivals.begin(KEY)
    threading.Timer(0.05, chunk.completed, [0]).start()
    arrivals.wait(0)
    assert arrivals.waited > 0
    threading.Timer(0.05, arrivals.fail).start()
    with pytest.raises(Abandoned):
        arrivals.wait(1)
    assert arrivals.failed


def test_a_wait_has_an_end_of_its_own():
    async def arriving():
        return Arrivals([KEY], 1, 0.01)

    arrivals = asyncio.run(arriving())
    with pytest.raises(Abandoned):
        arrivals.wait(0)
    assert arrivals.failed
