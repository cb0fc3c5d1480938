"""One drill from its start to its row: load, fault, recovery, and the reading back of all that was acknowledged."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from drills.load import Load
from drills.place import Place

FILLED = 12
"""Objects that are stored before anything happens."""


class Traffic(Protocol):
    """A steady load that can be checked: `Load`, or `RouterLoad` where a router is in between."""

    requests: int
    failed: list[str]
    wrong: list[str]
    missed: Counter[str]
    acknowledged: Mapping[int, float]

    async def fill(self, count: int) -> None:
        """Have the first `count` objects stored."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Ask all the time."""

    async def lost(self) -> list[int]:
        """Objects that were acknowledged as stored and do not come."""

    async def close(self) -> None:
        """Close connections."""


Asked = TypeVar("Asked", bound=Traffic)
Fault = Callable[[Asked], Awaitable[float]]
"""Does the harm and undoes it; returns the seconds from then to the first clean get of an acknowledged object."""


@dataclass(frozen=True)
class Outcome:
    """What a drill found.

    Attributes:
        requests: requests of the load, those while nothing was wrong included.
        failed: what happened to requests that could not be taken as a miss.
        wrong: names of what came with other bytes than were stored.
        lost: numbers of acknowledged objects that did not come back at the end, from every node.
        recovery: seconds from the end of the fault to the first clean get of an acknowledged object, the slowest round.
        missed: misses by reason, those of objects that were never put (`not_found`) included.
        how: what conditions say of it, if anything.
    """

    requests: int
    failed: list[str]
    wrong: list[str]
    lost: list[int]
    recovery: float
    missed: dict[str, int]
    how: str = ""

    @property
    def problems(self) -> list[str]:
        """All that must not be, in words."""
        return [
            *self.failed,
            *(f"wrong bytes of {key}" for key in self.wrong),
            *(f"object {number} was acknowledged and is lost" for number in self.lost),
        ]

    def row(self, name: str) -> dict[str, Any]:
        """Of the table."""
        return {
            "drill": name,
            "requests": self.requests,
            "failed_for_cache_reason": len(self.failed),
            "wrong_bytes": len(self.wrong),
            "acknowledged_lost": len(self.lost),
            "recovery_s": self.recovery,
        }


@dataclass
class Stage:
    """What a drill gets: a place, how long the load runs before and after a fault (seconds), and the seed."""

    place: Place
    seconds: float
    seed: int
    how: str = field(default="", init=False)

    async def play(self, fault: Fault[Load], *, rounds: int = 1) -> Outcome:
        """Run load over the place's nodes, have the fault `rounds` times, and read everything back."""
        load = Load(self.place.targets, self.seed, credentials=self.place.credentials)
        return await self.play_with(load, fault, rounds=rounds)

    async def play_with(self, load: Asked, fault: Fault[Asked], *, rounds: int = 1) -> Outcome:
        """The same with a load of another kind, which is closed at the end."""
        try:
            await load.fill(FILLED)
            recovery = 0.0
            async with load.running():
                for _ in range(rounds):
                    await asyncio.sleep(self.seconds / 2 / rounds)
                    recovery = max(recovery, await fault(load))
                await asyncio.sleep(self.seconds / 2)
            lost = await load.lost()
            return Outcome(
                load.requests, load.failed, load.wrong, lost, recovery, dict(load.missed.most_common()), self.how
            )
        finally:
            await load.close()
