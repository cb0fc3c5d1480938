"""What a store behind a queue has not got yet: the last write or delete of each key, durable, in a bounded folder."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from kvquilt_cache_node.store.hot import Count
from kvquilt_cache_node.store.queue_files import Entry, QueueFiles
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import CapacityError, UnavailableError

log = logging.getLogger(__name__)


class WriteQueue:
    """Entries by key. A later one of a key replaces the one before: once it is durable, not earlier.

    Who adds for a key sees to it that nobody else does meanwhile. For one event loop; files are worked on in threads.

    Args:
        files: of the queue; closed with it.
        max_bytes: cap of the blobs in it.
        max_entries: cap of their number; as many deletes come on top.
        count: told of `queue_entries`, `queue_bytes`, `queue_oldest_at`, as they change, and `queue_damaged`.
        clock: seconds since the epoch.

    Raises:
        IntegrityError: an entry of a later format.
        UnavailableError: the folder cannot be read.
    """

    def __init__(
        self,
        files: QueueFiles,
        max_bytes: int,
        max_entries: int,
        count: Count,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._count = count
        self._clock = clock
        self._entries: dict[bytes, Entry] = {}
        self._bytes = 0
        self._adding: list[int] = []
        self._oldest_at = 0
        entries, broken = files.load()
        for name in broken:
            log.warning("a damaged entry of the write queue is dropped: %s", name)
            self._count("queue_damaged", 1)
            files.remove(name)
        self._number = max((entry.number for entry in entries), default=0)
        for entry in entries:
            if (old := self._entries.get(entry.key)) is not None:  # replaced, and the process ended before it was gone
                files.remove(old.name)
            self._enter(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """What waits under a key."""
        return self._entries.get(key)

    def entries(self) -> list[Entry]:
        """All that waits, in its order."""
        return list(self._entries.values())

    async def put(self, key: bytes, data: bytes) -> bool:
        """Add a write; durable when this returns. `False`, and nothing happens, if there is no room for it.

        Raises:
            CapacityError: the disk is full.
            UnavailableError: it cannot be written.
        """
        size = len(data)
        full = len(self._entries) + len(self._adding) >= self._max_entries
        if full or self._bytes + sum(self._adding) + size > self._max_bytes:
            return False
        self._adding.append(size)
        try:
            await self._add(key, size, data)
        finally:
            self._adding.remove(size)
        return True

    async def delete(self, key: bytes) -> None:
        """Add a delete; durable when this returns.

        Raises:
            CapacityError: the disk, or the queue, is full.
            UnavailableError: it cannot be written.
        """
        if len(self._entries) >= 2 * self._max_entries and key not in self._entries:
            raise CapacityError(f"expected at most {2 * self._max_entries} entries in the write queue; it is full")
        await self._add(key, None, b"")

    async def read(self, entry: Entry, ranges: Sequence[ByteRange] | None = None) -> list[bytes] | None:
        """See `QueueFiles.read`; `None` also tells that there is another entry, or none, by now."""
        return await asyncio.to_thread(self._files.read, entry, ranges)

    async def remove(self, entry: Entry) -> None:
        """An entry is done with, and does not come back with a power cut. Nothing happens if another has replaced it.

        Raises:
            UnavailableError: its file cannot be deleted; it is there still.
        """
        if self._entries.get(entry.key) is not entry:
            return
        del self._entries[entry.key]
        self._changed(-1, -(entry.size or 0))
        try:
            await asyncio.to_thread(self._files.remove, entry.name, flush=True)
        except UnavailableError:
            if entry.key not in self._entries:
                self._enter(entry)
            raise

    def close(self) -> None:
        """Let another process have the folder. What waits stays in it."""
        self._files.close()

    async def _add(self, key: bytes, size: int | None, data: bytes) -> None:
        self._number += 1
        entry = Entry(self._number, key, size, self._clock())
        await asyncio.to_thread(self._files.write, entry, data)
        old = self._entries.get(key)
        self._enter(entry)
        if old is not None:
            await asyncio.to_thread(self._files.remove, old.name)

    def _enter(self, entry: Entry) -> None:
        old = self._entries.pop(entry.key, None)
        self._entries[entry.key] = entry  # at the end, in the order of numbers
        self._changed(int(old is None), (entry.size or 0) - ((old.size or 0) if old else 0))

    def _changed(self, entries: int, nbytes: int) -> None:
        self._bytes += nbytes
        first = next(iter(self._entries.values()), None)
        oldest = 0 if first is None else int(first.since)
        self._count("queue_entries", entries)
        self._count("queue_bytes", nbytes)
        self._count("queue_oldest_at", oldest - self._oldest_at)
        self._oldest_at = oldest
