"""What a server takes on, what it lets wait, and what it refuses at once because it could not be done in time.

Whoever is refused in a millisecond computes instead; whoever is served too late has paid twice. So calls beyond what
runs and waits are refused, and before that calls whose caller would be gone when it is their turn. No gRPC here.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from kvquilt_codec.errors import CapacityError
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.pace import Pace

OVERLOADED = "overloaded"
"""Reason of what is refused for this; the call did nothing, and another server may take it."""

ENDS: ContextVar[float | None] = ContextVar("kvquilt_ends", default=None)
"""When the caller of the running call no longer waits, in seconds of `time.monotonic`; `None`: not known."""

_REMEMBERED = 0.95
"""What a call's demand weighs after each further one: some twenty calls are remembered."""
_SPARE = 2.0
"""Calls are to be done in this part of the time that they have: what is only just in time on average is late as often
as not."""
_LAST_HINT = 10.0
"""Most seconds after which a refused caller is told to come again."""


@dataclass(slots=True, eq=False)
class _Waiter:
    turn: "asyncio.Future[None]"
    ends: float | None


class Turn:
    """A call that runs.

    Args:
        slots: that it has one of.
        since: the virtual time now.
    """

    def __init__(self, slots: "Slots", since: float) -> None:
        self._slots = slots
        self._since = since
        self._used = 0.0

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Its caller is what it waits for within, to read or to send: no demand of the call, and it shares nothing."""
        self._used += self._slots.shares_less() - self._since
        try:
            yield
        finally:
            self._since = self._slots.shares_more()

    def used(self, virtual: float) -> float:
        """What it has demanded by a virtual time, in seconds."""
        return self._used + virtual - self._since


class Slots:
    """A kind of call that runs so many times at once; so many more wait, in order; further ones are refused.

    Those that run share something: a core, a store, an engine. A call's demand is the time that it would take alone:
    while n run, those left out that only wait for their callers, each has an n-th of the time (the virtual time of
    processor sharing: Parekh and Gallager, "A generalized processor sharing approach to flow control", 1993). With k
    before it a newcomer is done after about k + 1 demands; if its caller does not wait for twice as long, it is
    refused. That is right on average only, so a few always go in.

    Args:
        name: of the kind, in messages.
        at_once: most that run.
        waiting: most that wait.
        counters: `calls_shed` counts what is refused.
        surely: so many are let in without looking at how long they will take.
        clock: that `ENDS` goes by.
    """

    def __init__(
        self,
        name: str,
        at_once: int,
        waiting: int,
        counters: Counters,
        *,
        surely: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.at_once = at_once
        self.most_waiting = waiting
        self._counters = counters
        self._surely = surely
        self._clock = clock
        self._running = self._sharing = 0
        self._waiters: deque[_Waiter] = deque()
        self._virtual = 0.0
        self._at = clock()
        self._demand = Pace(_REMEMBERED)

    @property
    def running(self) -> int:
        """Calls that run now."""
        return self._running

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn now."""
        return len(self._waiters)

    @property
    def demand(self) -> float:
        """Seconds that a call takes alone, lately; 0 before the first has ended."""
        return self._demand.seconds or 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Runs within, when it is this call's turn.

        Raises:
            CapacityError: `overloaded`; see `retry_after`.
        """
        self._check()
        if self._running < self.at_once:
            self._running += 1
        else:
            await self._wait()
        turn = Turn(self, self.shares_more())
        try:
            yield turn
        except BaseException:
            self._end(turn, whole=False)
            raise
        self._end(turn, whole=True)

    def shares_more(self) -> float:
        """A call takes its share of the time from now on; returns the virtual time."""
        self._advance()
        self._sharing += 1
        return self._virtual

    def shares_less(self) -> float:
        """One does not any more."""
        self._advance()
        self._sharing -= 1
        return self._virtual

    def _check(self) -> None:
        before = self._running + len(self._waiters)
        ends = ENDS.get()
        if self._running >= self.at_once and len(self._waiters) >= self.most_waiting:
            raise self._refused(f"{self._running} run and {len(self._waiters)} wait")
        if before >= self._surely and ends is not None:
            left, needed = ends - self._clock(), (before + 1) * self.demand
            if _SPARE * needed > left:
                raise self._refused(f"{left:.3g} s are left, and with {before} before it it may take {needed:.3g}")

    def _refused(self, why: str) -> CapacityError:
        self._counters.add("calls_shed")
        return CapacityError(
            f"expected room for one more of {self.name}; {why}: do without, or come again",
            reason=OVERLOADED,
            retry_after=min(_LAST_HINT, max(0.05, (len(self._waiters) + 1) * self.demand)),
        )

    async def _wait(self) -> None:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), ENDS.get())
        self._waiters.append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._leave()  # cancelled when it was its turn already
            raise

    def _leave(self) -> None:
        self._running -= 1
        while self._waiters and self._running < self.at_once:
            waiter = self._waiters.popleft()
            if waiter.turn.done():
                continue  # its caller has gone
            if waiter.ends is not None and waiter.ends - self._clock() < (self._running + 1) * self.demand:
                waiter.turn.set_exception(self._refused("its turn came too late"))
                continue
            self._running += 1
            waiter.turn.set_result(None)

    def _end(self, turn: Turn, *, whole: bool) -> None:
        used = turn.used(self.shares_less())
        # What was cut off tells how long it takes at least.
        if whole or used > self.demand:
            self._demand.measured(used, 1, 1)
        self._leave()

    def _advance(self) -> None:
        now = self._clock()
        if self._sharing:
            self._virtual += (now - self._at) / self._sharing
        self._at = now


@dataclass(frozen=True, slots=True)
class Lanes:
    """Which slots calls take before their request is read.

    Attributes:
        others: of all methods that `own` does not name.
        own: by a method's full name.
    """

    others: Slots
    own: Mapping[str, Slots]

    @property
    def each(self) -> list[Slots]:
        """All slots, each once."""
        return list(dict.fromkeys([self.others, *self.own.values()]))

    @property
    def most_calls(self) -> int:
        """That run and wait."""
        return sum(slots.at_once + slots.most_waiting for slots in self.each)

    def of(self, method: str) -> Slots:
        """The slots of a method."""
        return self.own.get(method, self.others)


class Room:
    """Memory for what is being received, in bytes, of all that share it.

    Args:
        most: bytes at once.
        what: they are, in messages.
        counters: that `counter` of what is refused is one of.
        counter: see there.
        reason: of what is refused.
    """

    def __init__(
        self, most: int, what: str, counters: Counters, counter: str = "calls_shed", reason: str = OVERLOADED
    ) -> None:
        self._most = most
        self._what = what
        self._counters = counters
        self._counter = counter
        self._reason = reason
        self.held = 0

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """So many are held within.

        Raises:
            CapacityError: there is no room for them now.
        """
        if self.held + count > self._most:
            self._counters.add(self._counter)
            raise CapacityError(
                f"expected at most {self._most - self.held} bytes of {self._what} now; got {count}: come again",
                reason=self._reason,
                retry_after=1.0,
            )
        self.held += count
        try:
            yield
        finally:
            self.held -= count
