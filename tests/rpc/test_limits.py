"""Limits of one identity, with a clock of the test's own."""

from contextlib import ExitStack

import pytest

from kvquilt_codec.errors import CapacityError
from kvquilt_rpc.limits import MAX_IDENTITIES, Limiter, Limits


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(limiter: Limiter, name: str = "a", sent: int = 0) -> bool:
    try:
        with limiter.admit(name) as call:
            call.sent(sent)
    except CapacityError:
        return False
    return True


def test_calls_a_second_and_no_more_and_again_after_the_hint() -> None:
    clock = Clock()
    limiter = Limiter(Limits(calls_per_second=4), clock)
    assert [admitted(limiter) for _ in range(6)] == [True] * 4 + [False] * 2
    with pytest.raises(CapacityError) as caught, limiter.admit("a"):
        pass
    assert caught.value.reason == "rate_limited"
    assert caught.value.retry_after == pytest.approx(0.25)
    clock.now += caught.value.retry_after or 0
    assert [admitted(limiter) for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [admitted(limiter) for _ in range(6)] == [True] * 4 + [False] * 2, "what was not used is not saved up"
    assert admitted(limiter, "b"), "another identity has its own"


def test_less_than_a_call_a_second_still_lets_one_through() -> None:
    clock = Clock()
    limiter = Limiter(Limits(calls_per_second=0.1), clock)
    assert [admitted(limiter) for _ in range(2)] == [True, False]
    clock.now += 10.01
    assert admitted(limiter)


def test_calls_at_once() -> None:
    limiter = Limiter(Limits(calls_at_once=2), Clock())
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(limiter.admit("a"))
        with pytest.raises(CapacityError) as caught, limiter.admit("a"):
            pass
        assert (caught.value.reason, caught.value.retry_after) == ("too_many_calls", 0.1)
        assert admitted(limiter, "b")
    assert admitted(limiter), "those that ended count no more"


def test_bytes_that_were_too_many_are_waited_for_by_later_calls() -> None:
    clock = Clock()
    limiter = Limiter(Limits(bytes_per_second=1000), clock)
    assert admitted(limiter, sent=4000), "a call that runs is not cut"
    with pytest.raises(CapacityError) as caught, limiter.admit("a"):
        pass
    assert caught.value.reason == "byte_rate_limited"
    assert caught.value.retry_after == pytest.approx(3.0)
    clock.now += 3.01
    assert admitted(limiter)


def test_no_limit_is_no_limit() -> None:
    limiter = Limiter(Limits(), Clock())
    assert all(admitted(limiter, sent=1 << 40) for _ in range(1000))


def test_identities_are_forgotten_but_none_whose_calls_run() -> None:
    limiter = Limiter(Limits(calls_at_once=1), Clock())
    with limiter.admit("runs"):
        for number in range(2 * MAX_IDENTITIES):
            assert admitted(limiter, f"i{number}")
        assert len(limiter._accounts) == MAX_IDENTITIES
        assert not admitted(limiter, "runs")
