"""Writes and deletes of blobs that are under way: what reads meanwhile can tell that its answer may be old."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial


class Changes:
    """Changes by key. For one event loop."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    def __contains__(self, key: object) -> bool:
        """Whether a key is being changed."""
        return key in self._counts

    async def run(self, key: bytes, work: Callable[[], Awaitable[None]]) -> None:
        """Change a key. A caller that goes away does not end it: the medium may be changed, cancelled or not."""
        self._counts[key] = self._counts.get(key, 0) + 1
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(partial(self._changed, key))
        await asyncio.shield(task)

    async def ended(self) -> None:
        """Wait for all that are under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self, key: bytes, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though all that waited for it may be gone
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
