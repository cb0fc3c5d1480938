"""The vocabulary of a load: what is asked, what came of it, and what is told of a rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

LATE = "late"
"""Outcome of what was answered after its deadline, counted from when it was to begin."""


class Load(Protocol):
    """Something that can be asked at any rate.

    Attributes:
        name: of the path that is loaded.
        nodes: how many node processes there are.
        deadline: seconds that a request has.
        workers: that a closed loop has: enough to keep it busy, and so few that none comes too late.
        pids: of the processes that do the work, by what they are.
        addresses: whose health is asked for meanwhile.
    """

    name: str
    nodes: int
    deadline: float
    workers: int
    pids: Mapping[str, Sequence[int]]
    addresses: Sequence[str]

    async def ask(self, number: int) -> int:
        """Make one request; returns the bytes that were moved.

        Raises:
            KvquiltError: it was refused, or failed; not all of it came.
        """

    async def settle(self) -> None:
        """Undo what a step has left, so that the next one finds what this one found."""


@dataclass(frozen=True, slots=True)
class Done:
    """One request.

    Attributes:
        at: seconds after the step's begin that it was to begin.
        lag: seconds after its time that it was begun: the generator's own.
        seconds: from its time to its end.
        outcome: the reason of an error, or `LATE`; empty: it was answered in time.
        nbytes: that were moved.
    """

    at: float
    lag: float
    seconds: float
    outcome: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of the processes during a step.

    Attributes:
        cpu_seconds: by what they are; `generator` is this process.
        peak_bytes: most resident memory of one process, by what they are.
        health_seconds: how long each health check took that was answered.
        health_failed: how many were not, within a second.
    """

    cpu_seconds: Mapping[str, float]
    peak_bytes: Mapping[str, float]
    health_seconds: Sequence[float]
    health_failed: int


Row = dict[str, Any]
"""Of a table, and of `load.json`."""
