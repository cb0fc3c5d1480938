"""Two sources of the same: the second is asked too when the first is late, within a budget."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from kvquilt_cache_node.store.hot import Count
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.nodes.budget import RetryBudget
from kvquilt_rpc.nodes.latency import Latencies

_SHARE, _RESERVE = 0.1, 5.0
"""Hedges are at most this share of all reads, and so many beyond it."""

Read = Callable[[], Coroutine[Any, Any, list[bytes] | None]]


@dataclass(frozen=True, slots=True)
class Raced:
    """What came of it: the answer (`None`: the first source has none), and whether it is the first source's."""

    found: list[bytes] | None
    first: bool


class Hedge:
    """Reads from a first source; beyond the 95th percentile of its recent reads from a second one too.

    Dean and Barroso, "The tail at scale", 2013. The answer is that of one source, whole; the other read is cancelled.

    Args:
        count: told of `tier_hedges` and `tier_hedges_won`.
        clock: seconds that only grow.
    """

    def __init__(self, count: Count, clock: Callable[[], float]) -> None:
        self._count = count
        self._clock = clock
        self._latencies = Latencies()
        self._budget = RetryBudget(_SHARE, _RESERVE)

    async def race(self, first: Read, second: Read, lost: Callable[[], None]) -> Raced:
        """The answer of whoever is first, among those that have one.

        Args:
            first: source that is preferred; raises nothing.
            second: may raise errors of our tree: then the first one's answer counts, late as it is.
            lost: told when the first one was given up.
        """
        self._budget.deposit()
        begun = self._clock()
        reading = asyncio.ensure_future(first())
        hedging: asyncio.Future[list[bytes] | None] | None = None
        try:
            await asyncio.wait({reading}, timeout=self._latencies.late)
            if not reading.done() and self._budget.take():
                self._count("tier_hedges", 1)
                hedging = asyncio.ensure_future(second())
                await asyncio.wait({reading, hedging}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() and (found := _result(hedging)) is not None:
                    self._count("tier_hedges_won", 1)
                    lost()
                    return Raced(found, first=False)
            found = await reading
            if found is None and hedging is not None:
                # Also where it failed: the first one has nothing, so its error is the answer.
                return Raced(await hedging, first=False)
            return Raced(found, first=found is not None)
        finally:
            # How long the loser took so far counts too, or a source that becomes slow would stay late for ever.
            self._latencies.add(self._clock() - begun)
            for task in (reading, hedging):
                if task is not None and not task.done():
                    task.cancel()
            await asyncio.gather(*(task for task in (reading, hedging) if task is not None), return_exceptions=True)


def _result(task: asyncio.Future[list[bytes] | None]) -> list[bytes] | None:
    """What a read gave that is done; `None` if it failed."""
    try:
        return task.result()
    except KvquiltError:
        return None
