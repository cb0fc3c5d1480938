"""Reads the bytes of objects that have a row, and holds off their eviction meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from kvquilt_cache_node.index_types import Index, Lease, Stored
from kvquilt_cache_node.types import Blobs, ByteRange, Namespaces, Piece
from kvquilt_codec.errors import NotFoundError


def missing(key: bytes) -> NotFoundError:
    """There is no object of a key, to whoever asks."""
    return NotFoundError(f"expected object {key.hex()[:16]}... in the store; it is not there")


async def read(blobs: Blobs, index: Index, key: bytes, ranges: Sequence[ByteRange] | None) -> list[bytes]:
    """Read what has a row. An object whose bytes are gone loses it.

    Raises:
        As `Blobs.read`.
    """
    try:
        return await blobs.read(key, ranges)
    except NotFoundError:
        # The row of this moment had its bytes: if they are not there now, and the row is, they are lost.
        stored = await index.stored(key)
        if stored is None:
            raise
        try:
            return await blobs.read(key, ranges)
        except NotFoundError:
            await index.remove_lost(key, stored.at)
            raise


class SharedReading:
    """See `ObjectReading`. What is read first is read while the index is asked whether it may be.

    Args:
        blobs: of a store.
        index: of the store.
        key: of the object.
        allowed: the index's answer: whether the object exists.
    """

    def __init__(self, blobs: Blobs, index: Index, key: bytes, allowed: asyncio.Future[list[bytes]]) -> None:
        self._blobs = blobs
        self._index = index
        self._key = key
        self._allowed = allowed

    async def read(self, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `ObjectReading.read`."""
        found = await read(self._blobs, self._index, self._key, ranges)
        await self.check()
        return found

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """See `ObjectReading.pieces`. An object whose bytes are gone loses its row."""
        stored: Stored | None = None
        while True:
            try:
                async with aclosing(self._blobs.pieces(self._key)) as pieces:
                    async for piece in pieces:
                        await self.check()
                        yield piece
                return
            except NotFoundError:  # nothing came, or nothing may
                await self.check()
                if stored is not None:
                    await self._index.remove_lost(self._key, stored.at)
                    raise
                stored = await self._index.stored(self._key)
                if stored is None:
                    raise

    async def check(self) -> None:
        """Wait for the index's answer.

        Raises:
            NotFoundError: the object does not exist.
        """
        if self._key not in await asyncio.shield(self._allowed):
            raise missing(self._key)


@asynccontextmanager
async def reading(
    blobs: Blobs, index: Index, key: bytes, namespaces: Namespaces, lease: Lease | None
) -> AsyncIterator[SharedReading]:
    """See `Store.reading`. The index is asked once; a caller of some namespaces waits for it before any byte is read.

    So another namespace's object takes such a caller as long as one that does not exist.
    """
    allowed = asyncio.create_task(index.use([key], (), namespaces, lease))
    opened = SharedReading(blobs, index, key, allowed)
    try:
        if namespaces is not None:
            await opened.check()
        yield opened
    finally:
        await asyncio.wait([allowed])
        if not allowed.cancelled() and allowed.exception() is None and allowed.result():
            index.end_read([key])


@asynccontextmanager
async def readings(
    blobs: Blobs, index: Index, keys: Sequence[bytes], namespaces: Namespaces, lease: Lease | None
) -> AsyncIterator[dict[bytes, SharedReading]]:
    """See `Store.readings`. The index is asked once about all of them, and first."""
    allowed = asyncio.create_task(index.use(list(dict.fromkeys(keys)), (), namespaces, lease))
    try:
        there = await asyncio.shield(allowed)
        yield {key: SharedReading(blobs, index, key, allowed) for key in there}
    finally:
        await asyncio.wait([allowed])
        if not allowed.cancelled() and allowed.exception() is None and allowed.result():
            index.end_read(allowed.result())
