"""One at a time per key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KeyLocks:
    """A lock for each key, as long as somebody holds or wants it. For one event loop."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, int]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether somebody holds or wants the lock of a key."""
        return key in self._locks

    @asynccontextmanager
    async def __call__(self, key: bytes) -> AsyncIterator[None]:
        """Hold the lock of a key."""
        lock, holders = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, holders + 1)
        try:
            async with lock:
                yield
        finally:
            lock, holders = self._locks[key]
            if holders == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, holders - 1)
