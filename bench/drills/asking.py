"""Requests that are counted by how they end."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kvquilt_codec.errors import KvquiltError

DEADLINE = 1.0
"""Seconds that a request to a node may take."""
MARGIN = 3.0
"""Seconds beyond its deadline after which a request counts as failed: two cores run load, nodes and servers."""

Result = TypeVar("Result")
Call = Callable[[], Awaitable[Result]]


class Asking:
    """Makes requests and counts how they end.

    Attributes:
        requests: how many so far.
        failed: those that ended in neither a result nor what may end them, in time, with what happened.
        wrong: names of what came with other bytes than were stored.
        missed: errors of our tree, by their reason.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.missed: Counter[str] = Counter()
        self._began: dict[str, asyncio.Event] = {}

    async def ask(self, kind: str, call: Call[Result], limit: float = DEADLINE) -> Result | KvquiltError | None:
        """What the call gave, or the miss; `None` after a failure."""
        self.requests += 1
        if (waiting := self._began.pop(kind, None)) is not None:
            waiting.set()
        try:
            async with asyncio.timeout(limit + MARGIN):
                return await call()
        except KvquiltError as error:
            self.missed[error.reason] += 1
            return error
        except asyncio.CancelledError as error:
            if asyncio.current_task().cancelling():
                raise
            self.failed.append(f"{kind}: {error!r} though nobody cancelled it")
        except Exception as error:  # noqa: BLE001  what it is does not matter: a router would not have caught it
            self.failed.append(f"{kind}: {error!r}")
        return None

    async def next(self, kind: str) -> None:
        """Return when the next request of a kind begins."""
        seen = self._began[kind] = asyncio.Event()
        await seen.wait()
