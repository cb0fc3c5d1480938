"""The parts without I/O: breaker, budget, waits, lateness, hot chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvquilt_rpc.nodes.breaker import BreakerState, CircuitBreaker
from kvquilt_rpc.nodes.budget import RetryBudget, full_jitter
from kvquilt_rpc.nodes.hot import HotChunks
from kvquilt_rpc.nodes.latency import Latencies
from tests.rpc.nodes.clock import Clock

THRESHOLD, FIRST, LAST = 3, 0.5, 4.0


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, outcomes and waits."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(self.clock, threshold=THRESHOLD, first_wait=FIRST, last_wait=LAST)
        self.running = 0
        self.in_a_row = 0
        self.opened = None
        self.trials = 0

    @rule()
    def call(self):
        state = self.breaker.state
        allowed = self.breaker.allow()
        if state is BreakerState.CLOSED:
            assert allowed
        elif state is BreakerState.OPEN:
            assert not allowed
        else:
            assert allowed == (self.trials == 0), "one trial at a time"
            self.trials += allowed
        self.running += allowed

    @precondition(lambda self: self.running)
    @rule()
    def succeed(self):
        state = self.breaker.state
        self.breaker.succeeded()
        self.running -= 1
        if state is not BreakerState.OPEN:
            assert self.breaker.state is BreakerState.CLOSED
            self.in_a_row = self.trials = 0
        else:
            assert self.breaker.state is BreakerState.OPEN, "an answer to an older call does not end the wait"

    @precondition(lambda self: self.running)
    @rule()
    def fail(self):
        state = self.breaker.state
        opened = self.breaker.failed()
        self.running -= 1
        if state is BreakerState.CLOSED:
            self.in_a_row += 1
            assert opened == (self.in_a_row >= THRESHOLD)
        else:
            assert opened == (state is BreakerState.HALF_OPEN)
        if opened:
            self.opened, self.trials = self.clock.now, 0
            assert self.breaker.state is BreakerState.OPEN

    @precondition(lambda self: self.running)
    @rule()
    def give_up(self):
        self.breaker.abandoned()
        self.running -= 1
        self.trials = 0

    @rule(seconds=st.floats(0.01, 6))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def it_never_stays_open_beyond_the_longest_wait(self):
        if self.breaker.state is BreakerState.OPEN:
            assert self.clock.now - self.opened < LAST


TestBreaker = BreakerMachine.TestCase


def test_waits_double_up_to_their_bound_and_begin_anew_after_an_answer():
    clock = Clock()
    breaker = CircuitBreaker(clock, threshold=1, first_wait=FIRST, last_wait=LAST)

    def wait_after_a_failure():
        assert breaker.allow()
        assert breaker.failed()
        before = clock.now
        while not breaker.ready:
            clock.now += 0.25
        return clock.now - before

    assert [wait_after_a_failure() for _ in range(5)] == [0.5, 1, 2, 4, 4]
    assert breaker.allow()
    breaker.succeeded()
    assert wait_after_a_failure() == 0.5


@given(st.lists(st.booleans(), max_size=400), st.floats(0, 0.5), st.integers(0, 20))
def test_further_attempts_stay_within_their_share_of_requests(steps, ratio, reserve):
    budget = RetryBudget(ratio, reserve)
    requests = attempts = 0
    for request in steps:
        if request:
            requests += 1
            budget.deposit()
        else:
            attempts += budget.take()
    assert attempts <= reserve + ratio * requests + 1e-6


def test_a_budget_comes_back_with_requests_that_need_no_second_attempt():
    budget = RetryBudget(0.2, 2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.deposit()
    assert [budget.take() for _ in range(2)] == [True, False]


@given(st.integers(0, 60), st.floats(0, 1))
def test_waits_are_uniform_up_to_a_bound_that_doubles(attempt, chance):
    wait = full_jitter(attempt, 0.05, 0.5, lambda: chance)
    assert wait == pytest.approx(chance * min(0.5, 0.05 * 2**attempt))


def test_late_is_the_95th_percentile_of_the_last_calls():
    latencies = Latencies()
    for number in range(31):
        latencies.add(number)
    assert latencies.late is None, "too few to tell"
    for number in range(1000):
        latencies.add(number / 1000)
    # The last 256 are 0.744 to 0.999.
    assert latencies.late == pytest.approx(0.744 + 0.95 * 0.256, abs=0.002)


def test_a_chunk_is_hot_while_it_is_used_often_and_cold_some_time_after():
    clock = Clock()
    hot = HotChunks(clock, uses=4, window=10)
    assert [hot.used(b"a") for _ in range(4)] == [False, False, False, True]
    assert not hot.used(b"b")
    clock.now += 11
    assert hot.used(b"a"), "most of the last window still counts"
    clock.now += 25
    assert not hot.used(b"a")


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 2)), max_size=60))
def test_what_is_used_less_often_than_that_in_two_windows_is_never_hot(uses):
    clock = Clock()
    hot = HotChunks(clock, uses=5, window=10)
    times: dict[int, list[float]] = {}
    for seconds, which in uses:
        clock.now += seconds
        times.setdefault(which, []).append(clock.now)
        recent = sum(clock.now - when <= 20 for when in times[which])
        assert not hot.used(bytes([which])) or recent >= 5
