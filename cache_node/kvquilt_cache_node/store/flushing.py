"""Works a write queue off: what waits goes to the store behind it, as soon as that can be reached."""

import asyncio
import logging
import random

from kvquilt_cache_node.store.hot import Count
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.key_locks import KeyLocks
from kvquilt_cache_node.store.queue_files import Entry
from kvquilt_cache_node.store.write_queue import WriteQueue
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.errors import IntegrityError, KvquiltError
from kvquilt_rpc.nodes.budget import full_jitter

log = logging.getLogger(__name__)

_AT_ONCE = 4
_FIRST_WAIT, _LAST_WAIT = 0.25, 30.0
"""Seconds, bounds of the drawn waits while the store behind the queue fails."""
_HURRIED_WAIT = 1.0
"""Seconds, the longest of them while the node drains: somebody waits for the queue."""


class Flusher:
    """Brings entries to the blobs behind a queue, deletes first: they make the room that writes were promised.

    While the blobs fail one entry at a time is tried, another one each time, after waits that double; in a hurry at
    once, and after a second at most.

    Args:
        cold: the blobs behind the queue.
        queue: what waits.
        count: told of `queue_flushed` and `queue_retries`.
        hurry: of the node; begins when it stops.

    Attributes:
        locks: whoever writes or deletes a key in `cold` holds its lock.
    """

    def __init__(self, cold: Blobs, queue: WriteQueue, count: Count, hurry: Hurry) -> None:
        self._cold = cold
        self._queue = queue
        self._count = count
        self._hurry = hurry
        self.locks = KeyLocks()
        self._failures = 0
        self._more = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def failing(self) -> bool:
        """Whether the last that was tried failed."""
        return self._failures > 0

    def start(self) -> None:
        """Begin; before that nothing leaves the queue by itself."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """There is more in the queue."""
        self._more.set()

    async def work_off(self, entry: Entry) -> None:
        """Bring one entry to the blobs, unless another one has replaced it.

        Raises:
            KvquiltError: it could not be written or deleted, and waits still.
        """
        async with self.locks(entry.key):
            if self._queue.get(entry.key) is not entry:
                return
            try:
                brought = await self._bring(entry)
                self._count("queue_flushed" if brought else "queue_damaged", 1)
                await self._queue.remove(entry)
            except KvquiltError:
                self._failures += 1
                raise
            self._failures = 0

    async def stop(self, seconds: float) -> None:
        """Work off what waits for at most so long; the rest stays in the queue."""
        self._stopping = True
        self._more.set()
        self._hurry.begin()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if len(self._queue):
            log.warning("%d entries stay in the write queue until the next start", len(self._queue))

    async def _bring(self, entry: Entry) -> bool:
        """Whether it is in the blobs now; `False` if its bytes are lost."""
        if entry.size is None:
            await self._cold.delete(entry.key)
            return True
        try:
            data = await self._queue.read(entry)
        except IntegrityError as error:
            log.error("a queued object is lost: %s", error, extra={"key": entry.key.hex()})
            return False
        if data is None:
            if self._queue.get(entry.key) is entry:
                log.error("a queued object is lost: somebody deleted its file", extra={"key": entry.key.hex()})
                return False
            return True
        await self._cold.write(entry.key, data[0])
        return True

    async def _run(self) -> None:
        while True:
            self._more.clear()
            due = [entry for entry in self._queue.entries() if entry.size is None] or self._queue.entries()
            if not due and self._stopping:
                return
            if not due:
                await self._more.wait()
            elif not self._failures:
                await asyncio.gather(*map(self._try, due[:_AT_ONCE]))
            else:
                await self._wait()
                await self._try(due[self._failures % len(due)])

    async def _wait(self) -> None:
        doublings = min(self._failures - 1, 16)
        seconds = full_jitter(doublings, _FIRST_WAIT, _LAST_WAIT, random.random)
        await self._hurry.wait(seconds, _HURRIED_WAIT)

    async def _try(self, entry: Entry) -> None:
        try:
            await self.work_off(entry)
        except KvquiltError as error:
            self._count("queue_retries", 1)
            if self._failures == 1:
                log.warning("the write queue waits: %s", error)
        except Exception:
            self._failures += 1
            log.exception("a queued entry cannot be brought to the store")
