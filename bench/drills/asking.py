"""Requests that are counted by how they end."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from kvquilt_codec.errors import KvquiltError

DEADLINE = 1.0
"""Seconds that a request to a node may take."""
MARGIN = 3.0
"""Seconds beyond its deadline after which a request counts as failed: two cores run load, nodes and servers."""
RECOVERY_LIMIT = 60.0

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

    async def ask(
        self, kind: str, call: Call[Result], limit: float = DEADLINE, *, may_miss: bool = True
    ) -> Result | KvquiltError | None:
        """What the call gave, or the miss; `None` after a failure.

        Args:
            kind: of the request, for `next`.
            call: makes it.
            limit: seconds that it may take, the margin apart.
            may_miss: an error of our tree is a miss, as a router takes those of its nodes; else a failure.
        """
        self.requests += 1
        if (waiting := self._began.pop(kind, None)) is not None:
            waiting.set()
        try:
            async with asyncio.timeout(limit + MARGIN):
                return await call()
        except KvquiltError as error:
            if may_miss:
                self.missed[error.reason] += 1
                return error
            self.failed.append(f"{kind}: {error!r}")
        except asyncio.CancelledError as error:
            if asyncio.current_task().cancelling():
                raise
            self.failed.append(f"{kind}: {error!r} though nobody cancelled it")
        except Exception as error:  # noqa: BLE001  what it is does not matter: a router would not have caught it
            self.failed.append(f"{kind}: {error!r}")
        return None

    async def until(self, done: Callable[[], Awaitable[bool]], what: str, seconds: float = RECOVERY_LIMIT) -> float:
        """Ask again and again until that is done; returns the seconds.

        Raises:
            RuntimeError: it took longer than it may.
        """
        begin = time.monotonic()
        while not await done():
            if time.monotonic() - begin > seconds:
                raise RuntimeError(f"expected {what} within {seconds:g} s; misses: {dict(self.missed)}")
            await asyncio.sleep(0.01)
        return time.monotonic() - begin

    @asynccontextmanager
    async def working(self, workers: Sequence[Coroutine[None, None, None]]) -> AsyncIterator[None]:
        """Have workers, none of which ends by itself, ask meanwhile.

        Raises:
            RuntimeError: one ended.
        """
        tasks = [asyncio.create_task(worker) for worker in workers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            if any(not isinstance(error, asyncio.CancelledError) for error in ended):
                raise RuntimeError(f"expected workers to go on until the end; they ended with {ended}")

    async def next(self, kind: str) -> None:
        """Return when the next request of a kind begins."""
        seen = self._began[kind] = asyncio.Event()
        await seen.wait()
