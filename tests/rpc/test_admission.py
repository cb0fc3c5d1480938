"""What runs, what waits and what is refused, by a clock of the test's own."""

import asyncio

import pytest

from kvquilt_codec.errors import CapacityError
from kvquilt_rpc.admission import ENDS, OVERLOADED, Room, Slots
from kvquilt_rpc.counters import CALL_COUNTERS, Counters


class Calls:
    """Calls of one kind; each runs until it is told to end."""

    def __init__(self, at_once: int, waiting: int, surely: int = 1) -> None:
        self.now = 0.0
        self.counters = Counters(CALL_COUNTERS)
        self.slots = Slots("calls", at_once, waiting, self.counters, surely=surely, clock=lambda: self.now)
        self.order: list[str] = []

    def begin(self, name: str, within: float | None = None) -> "Call":
        return Call(self, name, None if within is None else self.now + within)

    @property
    def shed(self) -> int:
        return self.counters.snapshot()["calls_shed"]


class Call:
    def __init__(self, calls: Calls, name: str, ends: float | None) -> None:
        self._calls = calls
        self._name = name
        self._ends = ends
        self._may_end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        ENDS.set(self._ends)
        async with self._calls.slots.turn():
            self._calls.order.append(self._name)
            await self._may_end.wait()

    async def end(self) -> None:
        self._may_end.set()
        await self.task

    async def refusal(self) -> CapacityError:
        with pytest.raises(CapacityError) as caught:
            await self.task
        assert caught.value.reason == OVERLOADED
        return caught.value


async def settle() -> None:
    """Let all tasks come to where they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def took(calls: Calls, seconds: float, times: int = 1) -> None:
    """Calls that ran alone for so long."""
    for _ in range(times):
        call = calls.begin("earlier")
        await settle()
        calls.now += seconds
        await call.end()
    calls.order.clear()


async def test_so_many_run_so_many_wait_in_order_and_the_next_is_refused() -> None:
    calls = Calls(at_once=2, waiting=2)
    begun = [calls.begin(name) for name in "abcd"]
    await settle()
    assert (calls.slots.running, calls.slots.waiting, calls.order) == (2, 2, ["a", "b"])
    error = await calls.begin("e").refusal()
    assert error.retry_after is not None
    assert calls.shed == 1
    for call in begun:
        await call.end()
    assert calls.order == ["a", "b", "c", "d"]
    assert (calls.slots.running, calls.slots.waiting) == (0, 0)


async def test_whoever_would_be_served_too_late_is_refused_at_once_and_others_are_not() -> None:
    calls = Calls(at_once=1, waiting=10)
    await took(calls, 1.0, times=3)
    assert calls.slots.demand == pytest.approx(1.0)
    first, second = calls.begin("first", within=1.5), calls.begin("second", within=5.0)
    await settle()
    assert calls.order == ["first"], "where nothing runs, nobody is refused"
    await calls.begin("third of a second each", within=5.0).refusal()
    patient, endless = calls.begin("patient", within=60.0), calls.begin("endless")
    await settle()
    for call in (first, second, patient, endless):
        await call.end()
    assert calls.order == ["first", "second", "patient", "endless"]
    assert calls.shed == 1


async def test_a_turn_that_comes_too_late_is_refused_and_the_next_has_it() -> None:
    calls = Calls(at_once=1, waiting=10)
    await took(calls, 1.0)
    slow, late, patient = calls.begin("slow"), calls.begin("late", within=4.5), calls.begin("patient")
    await settle()
    calls.now += 4.0  # the slow one takes longer than was to be expected
    await slow.end()
    await late.refusal()
    await settle()
    assert calls.order == ["slow", "patient"]
    await patient.end()


async def test_a_call_that_shares_with_others_is_known_to_be_quicker_alone() -> None:
    calls = Calls(at_once=10, waiting=0)
    begun = [calls.begin(str(number)) for number in range(10)]
    await settle()
    calls.now += 10.0
    for call in begun:
        await call.end()
    assert calls.slots.demand == pytest.approx(1.0)


async def test_time_that_callers_take_is_no_demand_and_those_that_wait_for_them_share_nothing() -> None:
    calls = Calls(at_once=10, waiting=0)

    async def reading() -> None:
        async with calls.slots.turn() as turn:
            calls.now += 1.0
            with turn.apart():
                calls.now += 100.0
            calls.now += 1.0

    await reading()
    assert calls.slots.demand == pytest.approx(2.0)
    stuck, gone = asyncio.Event(), calls.begin("beside")

    async def slow() -> None:
        async with calls.slots.turn() as turn:
            with turn.apart():
                await stuck.wait()

    readers = [asyncio.create_task(slow()) for _ in range(8)]
    await settle()
    calls.now += 2.0  # of which the one beside them has all
    await gone.end()
    assert calls.slots.demand == pytest.approx(2.0)
    assert calls.slots.running == 8, "they keep their places"
    stuck.set()
    await asyncio.gather(*readers)
    assert calls.slots.running == 0


async def test_a_few_are_let_in_whatever_is_foretold() -> None:
    calls = Calls(at_once=10, waiting=0, surely=3)
    await took(calls, 100.0)
    begun = [calls.begin(str(number), within=1.0) for number in range(3)]
    await settle()
    assert calls.slots.running == 3
    await calls.begin("one more", within=1.0).refusal()
    for call in begun:
        await call.end()


async def test_what_was_cut_off_says_how_long_it_takes_at_least() -> None:
    calls = Calls(at_once=1, waiting=0)
    await took(calls, 1.0)
    for seconds, at_least in ((0.1, 1.0), (50.0, 1.5)):
        call = calls.begin("cut off")
        await settle()
        calls.now += seconds
        call.task.cancel()
        await asyncio.gather(call.task, return_exceptions=True)
        assert calls.slots.demand >= at_least
        assert calls.slots.running == 0


@pytest.mark.parametrize("granted", [False, True])
async def test_whoever_goes_while_it_waits_leaves_nothing_behind(granted: bool) -> None:
    calls = Calls(at_once=1, waiting=2)
    first, gone, last = calls.begin("first"), calls.begin("gone"), calls.begin("last")
    await settle()
    if granted:  # cancelled in the moment in which it is its turn
        first._may_end.set()
        await asyncio.sleep(0)
    gone.task.cancel()
    await asyncio.gather(gone.task, return_exceptions=True)
    if not granted:
        await first.end()
    await settle()
    assert calls.order == ["first", "last"]
    await last.end()
    assert (calls.slots.running, calls.slots.waiting) == (0, 0)


def test_room_for_bytes_is_given_back_and_never_exceeded() -> None:
    counters = Counters(CALL_COUNTERS)
    room = Room(100, "puts", counters)
    with room.taken(60), pytest.raises(CapacityError, match="at most 40 bytes of puts") as caught, room.taken(41):
        pass
    assert (caught.value.reason, room.held, counters.snapshot()["calls_shed"]) == (OVERLOADED, 0, 1)
    with room.taken(100):
        assert room.held == 100
