"""The index in SQLite as an `Index`: for one node, which holds every key by being the only one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import IO

from kvquilt_cache_node.index_types import Lease, Pin, Stored
from kvquilt_cache_node.store.index import Index as Database
from kvquilt_cache_node.types import Namespaces, NamespaceUsage, Usage
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, Meta, ObjectInfo, ProfileInfo
from kvquilt_codec.errors import UnavailableError
from kvquilt_codec.traces import ChunkPlace, Trace


class SqliteIndex:
    """See `Index`. Its work is done in threads.

    Args:
        database: the index, which this one closes.
        lock: a file that is held as long as the index is open.
    """

    def __init__(self, database: Database, lock: IO[str] | None = None) -> None:
        self._database = database
        self._lock = lock
        self._reserved: dict[bytes, tuple[int, str]] = {}

    async def add_documents(self, key: bytes, documents: Sequence[str], namespace: str = "") -> bool:
        """See `Index.add_documents`."""
        return await asyncio.to_thread(self._database.add_documents, key, documents, namespace)

    async def reserve(self, key: bytes, size: int, capacity: int, namespace: str = "") -> list[bytes] | None:
        """See `Index.reserve`."""
        await self.release([key])
        if await self.stored(key) is not None:
            return None
        victims = await asyncio.to_thread(self._database.reserve, key, size, capacity, namespace)
        self._reserved[key] = (size, namespace)
        return victims

    async def commit(self, key: bytes, size: int, meta: Meta, *, adopted: bool = False) -> None:
        """See `Index.commit`."""
        if key not in self._reserved:
            raise UnavailableError(f"expected a reservation for object {key.hex()[:16]}...", reason="lease_lost")
        await asyncio.to_thread(partial(self._database.commit, key, size, meta, adopted=adopted))
        del self._reserved[key]

    async def release(self, keys: Sequence[bytes]) -> None:
        """See `Index.release`."""
        for key in keys:
            self.abandon(key)

    def abandon(self, key: bytes) -> None:
        """See `Index.abandon`. The bytes are found when the store is opened."""
        if key in self._reserved:
            self._database.release(*self._reserved.pop(key))

    async def may_delete(self, key: bytes) -> bool:
        """See `Index.may_delete`."""
        return not await asyncio.to_thread(self._database.has_row, key)

    async def deleted(self, keys: Sequence[bytes]) -> None:
        """See `Index.deleted`."""
        await asyncio.to_thread(self._database.deleted, keys)
        await self.release(keys)

    async def overdue(self, limit: int) -> list[bytes]:
        """See `Index.overdue`."""
        return [key for key in await asyncio.to_thread(self._database.overdue, limit) if key not in self._reserved]

    async def is_gone(self, key: bytes) -> bool:
        """See `Index.is_gone`."""
        return await asyncio.to_thread(self._database.is_gone, key)

    def end_read(self, keys: Sequence[bytes]) -> None:
        """See `Index.end_read`."""
        self._database.end_read(keys)

    async def pin(self, keys: Sequence[bytes], documents: Sequence[str], pin: Pin, namespace: str = "") -> list[bytes]:
        """See `Index.pin`."""
        return await asyncio.to_thread(self._database.pin, keys, documents, pin, namespace)

    async def unpin(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "") -> list[bytes]:
        """See `Index.unpin`."""
        return await asyncio.to_thread(self._database.unpin, keys, documents, namespace)

    async def use(
        self,
        keys: Sequence[bytes],
        documents: Sequence[str] = (),
        namespaces: Namespaces = None,
        lease: Lease | None = None,
    ) -> list[bytes]:
        """See `Index.use`."""
        return await asyncio.to_thread(self._database.use, keys, documents, namespaces, lease)

    async def remove(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespace: str = "", reason: str = "forgotten"
    ) -> tuple[dict[bytes, int], int]:
        """See `Index.remove`."""
        return await asyncio.to_thread(self._database.remove, keys, documents, namespace, reason)

    async def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """See `Index.remove_namespace`."""
        return await asyncio.to_thread(self._database.remove_namespace, namespace)

    async def stored(self, key: bytes) -> Stored | None:
        """See `Index.stored`. Every read from memory asks: a row by its key is not worth a thread."""
        if self._database.busy:
            return await asyncio.to_thread(self._database.stored, key)
        return self._database.stored(key)

    async def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """See `Index.remove_lost`."""
        return await asyncio.to_thread(self._database.remove_lost, key, stored_at)

    async def profiles(self) -> list[ProfileInfo]:
        """See `Index.profiles`."""
        return await asyncio.to_thread(self._database.profiles)

    async def files(self, like: FileMeta) -> list[FileInfo]:
        """See `Index.files`."""
        return await asyncio.to_thread(self._database.files, like)

    async def find(self, keys: Sequence[bytes] | None = None, namespaces: Namespaces = None) -> list[ObjectInfo]:
        """See `Index.find`."""
        return await asyncio.to_thread(self._database.find, keys, namespaces)

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        limit: int,
        namespaces: Namespaces = None,
    ) -> dict[bytes, list[ObjectInfo]]:
        """See `Index.find_variants`."""
        find = self._database.find_variants
        return await asyncio.to_thread(find, chunk_keys, model_fingerprint, prefix_digest, limit, namespaces)

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int, namespaces: Namespaces = None
    ) -> list[ChunkMatch]:
        """See `Index.find_chunks`."""
        find = self._database.find_chunks
        return await asyncio.to_thread(find, fingerprints, model_fingerprint, limit, namespaces)

    async def pages(self, limit: int) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """See `Index.pages`."""
        last = b""
        while page := await asyncio.to_thread(self._database.page, last, limit):
            yield page
            last = page[-1].key

    async def trace(self, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces = None) -> Trace:
        """See `Index.trace`."""
        return await asyncio.to_thread(self._database.trace, places, limit, namespaces)

    async def sizes(self) -> dict[bytes, int]:
        """See `Index.sizes`."""
        return await asyncio.to_thread(self._database.sizes)

    @property
    def expired(self) -> int:
        """See `Index.expired`."""
        return self._database.expired

    async def usage(self, capacity: int) -> Usage:
        """See `Index.usage`."""
        return await asyncio.to_thread(self._database.usage, capacity)

    async def usage_by_namespace(self) -> dict[str, NamespaceUsage]:
        """See `Index.usage_by_namespace`."""
        return await asyncio.to_thread(self._database.usage_by_namespace)

    async def close(self) -> None:
        """See `Index.close`."""
        await asyncio.to_thread(self._database.close)
        if self._lock is not None:
            self._lock.close()
