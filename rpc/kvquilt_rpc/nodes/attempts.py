"""One call on several nodes: attempts one after the other, hedges beside late ones, all within one deadline."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from kvquilt_codec.errors import (
    CapacityError,
    DeadlineError,
    KvquiltError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from kvquilt_rpc import spans
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.budget import RetryBudget, full_jitter
from kvquilt_rpc.nodes.latency import Latencies
from kvquilt_rpc.nodes.member import NO_ANSWER, Member
from kvquilt_rpc.nodes.throttle import SparedError
from kvquilt_rpc.nodes.types import PoolOptions

Result = TypeVar("Result")
REFUSED = (UnauthenticatedError, PermissionDeniedError)
"""What says that nodes do not let the caller in; it is to be told so, not that they do not answer."""
Answered = Callable[[str, float], None]
"""Told of a call that was answered: its kind's name, and the seconds that it took."""
_PATIENCE = 4.0
"""Times what is late of a call's kind that a node must have had before it counts that it did not answer."""
Work = Callable[[NodeClient, Sequence[bytes], float], Awaitable[Result]]
"""Calls a node about these keys, within so many seconds."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """A kind of call.

    Attributes:
        name: calls of one name are compared in how long they take.
        work: makes it.
        hedged: whether a late one may be made a second time, on the next node.
        discard: what to do with the answer of which the other one was faster.
        optional: whether it may be left out while its node refuses most of its kind: its caller does without.
    """

    name: str
    work: Work[Result]
    hedged: bool = False
    discard: Callable[[Result], Awaitable[None]] | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Answer(Generic[Result]):
    """What became of some keys.

    Attributes:
        keys: that were asked about together.
        member: who was asked, last.
        result: the answer; `None`: there is none.
        error: why there is none, or what failed before another node gave it.
    """

    keys: tuple[bytes, ...]
    member: Member
    result: Result | None
    error: KvquiltError | None = None

    @property
    def given(self) -> Result:
        """The answer.

        Raises:
            KvquiltError: there is none.
        """
        if self.result is None:
            raise self.error or UnavailableError(f"expected an answer of node {self.member.site.name}; there is none")
        return self.result


class Attempts:
    """Makes calls, and keeps their budgets.

    Args:
        options: see there.
        counters: see `COUNTERS`.
        chance: uniform numbers in 0..1, of waits and of throttles.
        clock: seconds that only grow.
        answered: told of every call that was answered.
    """

    def __init__(
        self,
        options: PoolOptions,
        counters: Counters,
        *,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        answered: Answered | None = None,
    ) -> None:
        self._answered = answered
        self._options = options
        self._counters = counters
        self._chance = chance
        self._clock = clock
        self._retries = RetryBudget(options.retry_ratio, options.reserve)
        self._hedges = RetryBudget(options.hedge_ratio, options.reserve)
        self._latencies: defaultdict[str, Latencies] = defaultdict(Latencies)

    async def each(self, members: Iterable[Member], call: Call[Result], deadline: float) -> list[Answer[Result]]:
        """Ask all of them at once, each once."""

        async def asked(member: Member) -> Answer[Result]:
            try:
                result = await self._once(member, (), call, deadline)
            except KvquiltError as error:
                return Answer((), member, None, error)
            return Answer((), member, result)

        return list(await asyncio.gather(*map(asked, members)))

    async def ask(
        self, orders: Mapping[bytes, Sequence[Member]], call: Call[Result], deadline: float
    ) -> list[Answer[Result]]:
        """Ask about keys: those with the same first node in one call, and what it does not answer at the next.

        Args:
            orders: by key the nodes that may be asked, the best first.
            call: what to ask.
            deadline: seconds for all attempts together.
        """
        return await self._ask(orders, call, 0, self._clock() + deadline)

    async def _ask(
        self, orders: Mapping[bytes, Sequence[Member]], call: Call[Result], attempt: int, end: float
    ) -> list[Answer[Result]]:
        groups: defaultdict[Member, list[bytes]] = defaultdict(list)
        for key, order in orders.items():
            groups[order[0]].append(key)
        found = await asyncio.gather(
            *(self._group({key: orders[key] for key in keys}, call, attempt, end) for keys in groups.values())
        )
        return [answer for answers in found for answer in answers]

    async def _group(
        self, orders: Mapping[bytes, Sequence[Member]], call: Call[Result], attempt: int, end: float
    ) -> list[Answer[Result]]:
        """Ask the first node of all these keys; then, if it does not answer, the next of each."""
        if attempt == 0:
            self._retries.deposit()
            self._hedges.deposit()
        keys = tuple(orders)
        first = orders[keys[0]][0]
        last = attempt + 1 >= self._options.attempts or all(len(order) == 1 for order in orders.values())
        left = end - self._clock()
        if left <= 0:
            return [Answer(keys, first, None, DeadlineError("expected an answer within the deadline; none came"))]
        try:
            return [await self._hedged(orders, call, left if last else left / 2)]
        except KvquiltError as error:
            again = await self._again(orders, first, error, attempt, end) if self._elsewhere(error) else None
            if again is None:
                return [Answer(keys, first, None, error)]
            return [
                replace(answer, error=answer.error or error)
                for answer in await self._ask(again, call, attempt + 1, end)
            ]

    def _elsewhere(self, error: BaseException) -> bool:
        """Whether another node may do better: this one did not answer, or has too much to do and others have the same.

        Where each has a store of its own, the next one would say that there is no such object.
        """
        if isinstance(error, CapacityError):
            return self._options.shared_store and error.reason == OVERLOADED
        return isinstance(error, NO_ANSWER)

    async def _again(
        self,
        orders: Mapping[bytes, Sequence[Member]],
        failed: Member,
        error: KvquiltError,
        attempt: int,
        end: float,
    ) -> dict[bytes, Sequence[Member]] | None:
        """Whom to ask next, when it is time to; `None`: nobody."""
        if attempt + 1 >= self._options.attempts:
            return None
        others = {key: order[1:] for key, order in orders.items() if len(order) > 1}
        wait = 0.0
        if not others:
            # The only node. It is asked again if it refused, not if it took too long: there is no time left.
            wait = full_jitter(attempt, self._options.first_backoff, self._options.last_backoff, self._chance)
            if not isinstance(error, UnavailableError) or not failed.breaker.ready or self._clock() + wait >= end:
                return None
        if not isinstance(error, SparedError) and not self.again():
            return None
        await asyncio.sleep(wait)
        return others or dict(orders)

    def again(self) -> bool:
        """Whether something that was not answered may be asked for once more; if so, that is paid for."""
        taken = self._retries.take()
        self._counters.add("node_retries" if taken else "node_retries_refused")
        return taken

    async def _hedged(
        self, orders: Mapping[bytes, Sequence[Member]], call: Call[Result], seconds: float
    ) -> Answer[Result]:
        keys = tuple(orders)
        order = orders[keys[0]]
        late = self._latencies[call.name].late
        if not call.hedged or len(order) < 2 or late is None or late >= seconds:
            result = await self._once(order[0], keys, call, seconds)
            return Answer(keys, order[0], result)
        racing = {asyncio.create_task(self._once(order[0], keys, call, seconds)): order[0]}
        try:
            done, _ = await asyncio.wait(racing, timeout=late)
            if not done and self._hedges.take():
                self._counters.add("node_hedges")
                hedge = self._once(order[1], keys, call, seconds - late, hedged=True)
                racing[asyncio.create_task(hedge)] = order[1]
            winner = await self._first(racing)
            if racing[winner] is not order[0] and winner.exception() is None:
                self._counters.add("node_hedges_won")
            return Answer(keys, racing.pop(winner), winner.result())
        finally:
            await _end(racing, call)

    async def _once(
        self, member: Member, keys: Sequence[bytes], call: Call[Result], seconds: float, *, hedged: bool = False
    ) -> Result:
        began, latencies = self._clock(), self._latencies[call.name]
        # A call that began with little time left, or among many, may be late without a fault of the node: if that
        # opened breakers, too much to do would end in nothing being done.
        late = latencies.late
        had_time = late is None or seconds >= _PATIENCE * late
        told = spans.span("kvquilt.node", node=member.site.name, call=call.name, objects=len(keys), hedged=hedged)
        made = member.throttle(call.name).call(call.name, self._chance()) if call.optional else nullcontext()
        with told, made, member.judged(had_time=had_time), member.busy():
            result = await call.work(member.client, keys, seconds)
        seconds = self._clock() - began
        latencies.add(seconds)
        if self._answered is not None:
            self._answered(call.name, seconds)
        return result

    async def _first(self, racing: Mapping["asyncio.Task[Result]", Member]) -> "asyncio.Task[Result]":
        """The first that gives an answer; if none does, the error of the last."""
        pending = set(racing)
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            errors = {task: task.exception() for task in done}
            answered = [task for task, error in errors.items() if error is None or not self._elsewhere(error)]
            if answered or not pending:
                return (answered or list(done))[0]


def answers(found: Sequence[Answer[Result]]) -> list[Result]:
    """What those said that answered.

    Raises:
        KvquiltError: nobody did.
    """
    given = [answer.result for answer in found if answer.result is not None]
    return given if given or not found else [found[0].given]


async def _end(racing: Iterable["asyncio.Task[Any]"], call: Call[Any]) -> None:
    losers = list(racing)
    for task in losers:
        task.cancel()
    await asyncio.gather(*losers, return_exceptions=True)
    for task in losers:
        if call.discard is not None and not task.cancelled() and task.exception() is None:
            await call.discard(task.result())
