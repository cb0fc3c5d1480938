"""Deletes the bytes of objects whose rows are gone, while others write and read."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.store.key_locks import KeyLocks
from kvquilt_cache_node.store.leaving import Departure, Leaving
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.errors import KvquiltError

log = logging.getLogger(__name__)


class Deletions:
    """What is under way out of a store.

    Args:
        blobs: of the store.
        index: of the store.
        exclusive: held by whoever writes or deletes a key's bytes.
    """

    def __init__(self, blobs: Blobs, index: Index, exclusive: KeyLocks) -> None:
        self._blobs = blobs
        self._index = index
        self._exclusive = exclusive
        self._leaving = Leaving()
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, keys: Iterable[bytes]) -> Sequence[Departure]:
        """Begin to delete the bytes of objects whose rows are gone; one at a time.

        All at once: the key of one may be held by a put that waits for another.
        """
        departures = []
        for key, departure in self._leaving.add(keys):
            task = asyncio.create_task(self._delete(key, departure))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            departures.append(departure)
        return departures

    def of(self, key: bytes) -> list[Departure]:
        """Deletions of a key that are under way."""
        return self._leaving.of(key)

    def all(self) -> list[Departure]:
        """All that are under way."""
        return self._leaving.all()

    def done(self, key: bytes) -> None:
        """Somebody else deleted the bytes of a key."""
        for departure in self._leaving.of(key):
            self._leaving.gone(departure)

    async def undo(self, key: bytes) -> None:
        """Leave nothing of a put that failed. Where that fails too, a node finds it once the lease has run out."""
        try:
            await self._discard(key)
        except KvquiltError as error:
            log.warning("what a failed put left may still be there: %s", error, extra={"key": key.hex()})

    async def settle(self) -> None:
        """Wait for all."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _delete(self, key: bytes, departure: Departure) -> None:
        """Delete the bytes of an object whose row is gone, unless it has been stored again meanwhile."""
        problem: Exception | None = None
        try:
            async with self._exclusive(key):
                await self._discard(key)
        except KvquiltError as error:
            problem = error
        finally:
            self._leaving.gone(departure, problem)

    async def _discard(self, key: bytes) -> None:
        try:
            if await self._index.may_delete(key):
                await self._blobs.delete(key)
                await self._index.deleted([key])
        finally:
            self._index.abandon(key)
