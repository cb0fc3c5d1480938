"""A store made of blobs and an index: the cap, and the order of steps that makes puts crash-safe."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from kvquilt_cache_node.index_types import Index, Pin
from kvquilt_cache_node.rules import StayRules
from kvquilt_cache_node.store.deletions import Deletions
from kvquilt_cache_node.store.key_locks import KeyLocks
from kvquilt_cache_node.store.leaving import Departure, failures, settled
from kvquilt_cache_node.store.object_reading import SharedReading, missing, read, reading, readings
from kvquilt_cache_node.store.sealed_types import Sealed
from kvquilt_cache_node.types import FILES_KEPT, Blobs, ByteRange, Namespaces, NamespaceUsage, Usage
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, Meta, ObjectInfo, ObjectMeta, ProfileInfo
from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_codec.identity import check_digest
from kvquilt_codec.receipts import ForgetReceipt, PinReceipt
from kvquilt_codec.traces import ChunkPlace, Trace
from kvquilt_rpc import spans

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_WAITS = (0.005, 0.1)
"""Seconds, the first and the longest, between looks at a key that another node writes or deletes."""
_WAIT_SECONDS = 60.0
"""After so many a put gives up: longer than the lease of a node that died."""


SWEPT_AT_ONCE = 128
"""Objects that one call deletes: `redis_holds.BATCH` is as many."""


class IndexedStore:
    """See `Store`. An object exists from the moment its row is in the index; its bytes are written before.

    Several nodes may have stores of the same blobs and index. `Repair` brings blobs and index in line, where a store is
    opened that its last process may have left at any point.

    Args:
        blobs: closed with the store.
        index: closed with the store.
        capacity_bytes: the cap.
        rules: how long objects stay.
        sealed: the blobs too, if they are encrypted: rows and the cap count what they take on the medium.
    """

    def __init__(
        self,
        blobs: Blobs,
        index: Index,
        capacity_bytes: int,
        rules: StayRules | None = None,
        sealed: Sealed | None = None,
    ) -> None:
        if capacity_bytes <= 0:
            raise BadRequestError(f"expected a capacity above 0 bytes; got {capacity_bytes}")
        self._blobs = blobs
        self._index = index
        self._capacity = capacity_bytes
        self._rules = rules or StayRules()
        self._exclusive = KeyLocks()  # the second of two that store the same chunk finds it done
        self._sealed = sealed
        self._choosing = asyncio.Lock()
        self._deletions = Deletions(blobs, index, self._exclusive)
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def name(self) -> str:
        """See `Store.name`."""
        return self._blobs.name

    @property
    def durable(self) -> bool:
        """See `Store.durable`."""
        return self._blobs.durable

    @spans.traced("kvquilt.put")
    async def put_if_absent(self, key: bytes, data: bytes, meta: Meta) -> bool:
        """See `Store.put_if_absent`."""
        check_digest(key, "object key")
        if isinstance(meta, ObjectMeta):
            meta = replace(meta, lifetime=self._rules.lifetimes.of(meta.lifetime, time.time()))
        return await self._carried_out("put", self._put_if_absent(key, data, meta))

    async def _carried_out(self, what: str, work: Coroutine[Any, Any, Result]) -> Result:
        """Shielded: a caller that goes away must not leave a reservation, or bytes without a row, behind."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, what))
        return await asyncio.shield(task)

    def _done(self, what: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("a %s failed: %s", what, error)

    async def _put_if_absent(self, key: bytes, data: bytes, meta: Meta) -> bool:
        size = len(data) if self._sealed is None else self._sealed.stored_size(len(data))
        async with self._exclusive(key):
            if not await self._reserve(key, size, meta):
                return False
            try:
                # Before the write: the cap holds for the bytes on the medium, not only for the sum in the index, and
                # the room may be that of somebody else's victims.
                if self._deletions.of(key):
                    await self._blobs.delete(key)  # whoever is to delete them waits for this put
                    self._deletions.done(key)
                await settled(self._deletions.all())
                await self._blobs.write(key, data)
                await self._index.commit(key, size, meta)
            except BaseException:
                await self._deletions.undo(key)
                raise
        if isinstance(meta, FileMeta):
            surplus = (await self.files(meta))[FILES_KEPT[type(meta)] :]
            await self.forget([bytes.fromhex(info.digest) for info in surplus], [])
        return True

    async def _reserve(self, key: bytes, size: int, meta: Meta) -> bool:
        """Hold a key, and let the bytes go that are in the way; or let more documents hold what is there."""
        documents, namespace = (meta.document_ids, meta.namespace) if isinstance(meta, ObjectMeta) else ((), "")
        wait, give_up = _WAITS[0], time.monotonic() + _WAIT_SECONDS
        while not await self._index.add_documents(key, documents, namespace):
            async with self._choosing:
                victims = await self._index.reserve(key, size, self._capacity, namespace)
                if victims is not None:
                    self._deletions.begin(victims)
                    return True
            if time.monotonic() > give_up:
                raise UnavailableError(f"expected object {key.hex()[:16]}... for this node; another one is writing it")
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  no secret
            wait = min(2 * wait, _WAITS[1])
        return False

    async def get(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Store.get`."""
        check_digest(key, "object key")
        if await self._index.stored(key) is None:
            raise missing(key)
        return await read(self._blobs, self._index, key, ranges)

    def reading(self, key: bytes, namespaces: Namespaces = None) -> AbstractAsyncContextManager[SharedReading]:
        """See `Store.reading`."""
        check_digest(key, "object key")
        return reading(self._blobs, self._index, key, namespaces, self._rules.lease(self._capacity))

    def readings(
        self, keys: Sequence[bytes], namespaces: Namespaces = None
    ) -> AbstractAsyncContextManager[Mapping[bytes, SharedReading]]:
        """See `Store.readings`."""
        for key in keys:
            check_digest(key, "object key")
        return readings(self._blobs, self._index, keys, namespaces, self._rules.lease(self._capacity))

    @spans.traced("kvquilt.index.touch")
    async def touch(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespaces: Namespaces = None
    ) -> list[bytes]:
        """See `Store.touch`."""
        return await self._index.use(keys, documents, namespaces)

    @spans.traced("kvquilt.index.stat")
    async def stat(self, keys: Sequence[bytes], namespaces: Namespaces = None) -> dict[bytes, ObjectInfo]:
        """See `Store.stat`."""
        return {info.key: info for info in await self._index.find(list(keys), namespaces)}

    @spans.traced("kvquilt.index.find_variants")
    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        limit: int,
        namespaces: Namespaces = None,
    ) -> dict[bytes, list[ObjectInfo]]:
        """See `Store.find_variants`."""
        return await self._index.find_variants(chunk_keys, model_fingerprint, prefix_digest, limit, namespaces)

    @spans.traced("kvquilt.index.find_chunks")
    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int, namespaces: Namespaces = None
    ) -> list[ChunkMatch]:
        """See `Store.find_chunks`."""
        return await self._index.find_chunks(fingerprints, model_fingerprint, limit, namespaces)

    async def trace(self, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces = None) -> Trace:
        """See `Store.trace`."""
        return await self._index.trace(places, limit, namespaces)

    async def forget(
        self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "", reason: str = "forgotten"
    ) -> ForgetReceipt:
        """See `Store.forget`."""
        return await self._carried_out("forget", self._forget(keys, documents, namespace, reason))

    async def _forget(
        self, keys: Sequence[bytes], documents: Sequence[str], namespace: str, reason: str
    ) -> ForgetReceipt:
        async with self._choosing:
            dropped, shared = await self._index.remove(keys, documents, namespace, reason)
            leaving = self._deletions.begin(dropped)
        pending = await self._pending(leaving)
        return ForgetReceipt(tuple(dropped), sum(dropped.values()), shared, pending)

    async def forget_namespace(self, namespace: str) -> ForgetReceipt:
        """See `Store.forget_namespace`."""
        return await self._carried_out("forget", self._forget_namespace(namespace))

    async def _forget_namespace(self, namespace: str) -> ForgetReceipt:
        if self._sealed is not None:
            await self._sealed.destroy_key(namespace)  # first: whatever fails after that, nothing can be read
        async with self._choosing:
            dropped = await self._index.remove_namespace(namespace)
            leaving = self._deletions.begin(dropped)
        pending = await self._pending(leaving)
        return ForgetReceipt(tuple(dropped), sum(dropped.values()), 0, pending)

    async def _pending(self, leaving: Sequence[Departure]) -> int:
        """Wait until bytes are deleted; how many cannot be deleted yet. They are tried again by `sweep`."""
        problems = await failures(leaving)
        for error in problems[:1]:
            log.warning("bytes of %d forgotten objects are deleted later: %s", len(problems), error)
        return len(problems)

    async def sweep(self) -> bool:
        """Delete some of what has expired, and of what could not be deleted; whether there may be more.

        Raises:
            KvquiltError: some of it cannot be deleted now; it is tried again by a later call.
        """
        keys = await self._index.overdue(SWEPT_AT_ONCE)
        async with self._choosing:
            leaving = self._deletions.begin(key for key in keys if not self._deletions.of(key))
        for error in (await failures(leaving))[:1]:
            raise error
        return len(keys) >= SWEPT_AT_ONCE

    async def pin(
        self,
        keys: Sequence[bytes],
        documents: Sequence[str],
        namespace: str = "",
        *,
        seconds: float | None = None,
        expiring: bool = False,
    ) -> PinReceipt:
        """See `Store.pin`."""
        wanted = Pin(self._rules.most_pinned(self._capacity), seconds, expiring)
        return await self._pinned(await self._index.pin(keys, documents, wanted, namespace))

    async def unpin(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "") -> PinReceipt:
        """See `Store.unpin`."""
        return await self._pinned(await self._index.unpin(keys, documents, namespace))

    async def _pinned(self, keys: Sequence[bytes]) -> PinReceipt:
        usage = await self.usage()
        return PinReceipt(tuple(keys), usage.pinned_bytes, self._rules.most_pinned(self._capacity))

    async def profiles(self) -> list[ProfileInfo]:
        """See `Store.profiles`."""
        return await self._index.profiles()

    async def files(self, like: FileMeta) -> Sequence[FileInfo]:
        """See `Store.files`."""
        return await self._index.files(like)

    async def list(self) -> list[ObjectInfo]:
        """See `Store.list`."""
        return await self._index.find()

    def pages(self, limit: int) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """See `Store.pages`."""
        return self._index.pages(limit)

    async def usage(self) -> Usage:
        """See `Store.usage`."""
        return await self._index.usage(self._capacity)

    async def usage_by_namespace(self) -> dict[str, NamespaceUsage]:
        """See `Store.usage_by_namespace`."""
        return await self._index.usage_by_namespace()

    async def close(self) -> None:
        """See `Store.close`. Waits for puts under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._deletions.settle()
        await self._index.close()
        await self._blobs.close()
