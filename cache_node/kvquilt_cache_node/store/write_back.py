"""Writes that are acknowledged from a durable queue on the node's own disk, and get to the blobs behind it later."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence

from kvquilt_cache_node.store.answering import answered
from kvquilt_cache_node.store.changes import Changes
from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.flushing import Flusher
from kvquilt_cache_node.store.hot import Count
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.key_locks import KeyLocks
from kvquilt_cache_node.store.whole import InOnePiece
from kvquilt_cache_node.store.write_queue import WriteQueue
from kvquilt_cache_node.types import Blobs, ByteRange
from kvquilt_codec.errors import CapacityError, NotFoundError, UnavailableError
from kvquilt_codec.identity import check_digest
from kvquilt_codec.tiers import Tier

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that a delete waits for the blobs behind the queue before it is queued, or left to the queue."""

_TRIES = 20


class WriteBackBlobs(InOnePiece):
    """See `Blobs`. What is in the queue counts as written, or as deleted, whatever is behind it.

    A write that the queue has no room for goes to the blobs behind it, after what waits of the same key and after all
    deletes: it is late, or fails, as those blobs do.

    Only one process may use the blobs behind the queue: others know nothing of the queue.

    Args:
        cold: closed with these blobs.
        queue: closed likewise.
        count: told of `queue_hits`, `queue_bytes_read`, `queue_bytes_written`, `queue_full`, `queue_flushed`,
            `queue_retries`.
        drain_seconds: time to work the queue off when it is closed.
        hurry: of the node.
    """

    def __init__(self, cold: Blobs, queue: WriteQueue, count: Count, *, drain_seconds: float, hurry: Hurry) -> None:
        self._cold = cold
        self._queue = queue
        self._count = count
        self._drain_seconds = drain_seconds
        self._flusher = Flusher(cold, queue, count, hurry)
        self._changing = KeyLocks()
        self._changes = Changes()
        self._attempts: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._open = Open(cold.name)

    @property
    def name(self) -> str:
        """See `Blobs.name`."""
        return self._cold.name

    @property
    def durable(self) -> bool:
        """See `Blobs.durable`."""
        return self._cold.durable

    def start(self) -> None:
        """Begin to work the queue off; to be called once blobs and index are in line."""
        self._flusher.start()

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`. Durable in the queue when it returns, or behind it."""
        self._open.check()
        check_digest(key, "key")
        await self._changes.run(key, lambda: self._write(key, bytes(data)))

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`. Carried out behind the queue when it returns, or durable in the queue."""
        self._open.check()
        check_digest(key, "key")
        await self._changes.run(key, lambda: self._delete(key))

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        self._open.check()
        check_digest(key, "key")
        for _ in range(_TRIES):
            entry = self._queue.get(key)
            if entry is None:
                return await self._cold.read(key, ranges)
            if entry.size is None:
                raise NotFoundError(f"expected object {key.hex()[:16]}... in the store; it is being deleted")
            found = await self._queue.read(entry, ranges)
            if found is not None:
                answered(Tier.QUEUE)
                self._count("queue_hits", 1)
                self._count("queue_bytes_read", sum(map(len, found)))
                return found
        raise UnavailableError(f"expected object {key.hex()[:16]}... to stay for a read; it is replaced all the time")

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        self._open.check()
        before = self._queue.entries()
        found = await self._cold.sizes()
        self._open.check()
        for entry in [*before, *self._queue.entries()]:  # what got behind the queue meanwhile may not be in the listing
            found.pop(entry.key, None)
            if entry.size is not None:
                found[entry.key] = entry.size
        return found

    async def close(self) -> None:
        """See `Blobs.close`. The queue gets its time; what is in it then is there at the next start."""
        self._open.close()
        await self._flusher.stop(self._drain_seconds)
        await self._cold.close()
        await self._changes.ended()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        self._queue.close()

    async def _write(self, key: bytes, data: bytes) -> None:
        async with self._changing(key):
            if await self._queued(key, data):
                self._count("queue_bytes_written", len(data))
                self._flusher.wake()
                return
            self._count("queue_full", 1)
            for entry in self._queue.entries():
                if entry.size is None or entry.key == key:
                    await self._flusher.work_off(entry)
            async with self._flusher.locks(key):
                await self._cold.write(key, data)

    async def _queued(self, key: bytes, data: bytes) -> bool:
        try:
            return await self._queue.put(key, data)
        except (CapacityError, UnavailableError) as error:
            log.warning("a write cannot be queued: %s", error)
            return False

    async def _delete(self, key: bytes) -> None:
        async with self._changing(key):
            waiting = self._queue.get(key)
            if waiting is None and await self._in_time(self._delete_behind(key)):
                return
            try:
                await self._queue.delete(key)
            except (CapacityError, UnavailableError) as error:
                log.warning("a delete cannot be queued: %s", error)
                if waiting is not None:
                    await self._queue.remove(waiting)
                await self._delete_behind(key)
                return
            self._flusher.wake()
            queued = self._queue.get(key)
            if waiting is not None and queued is not None:
                await self._in_time(self._flusher.work_off(queued))

    async def _delete_behind(self, key: bytes) -> None:
        async with self._flusher.locks(key):
            await self._cold.delete(key)

    async def _in_time(self, work: Coroutine[None, None, None]) -> bool:
        """Whether something behind the queue is done soon; it goes on if it is not, and nothing else is tried then."""
        if self._flusher.failing or self._late:
            work.close()
            return False
        task = asyncio.create_task(work)
        self._attempts.add(task)
        task.add_done_callback(self._attempted)
        done, late = await asyncio.wait({task}, timeout=_PATIENCE)
        self._late |= late
        return bool(done) and task.exception() is None

    def _attempted(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._late.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("what is behind the write queue failed: %s", error)
