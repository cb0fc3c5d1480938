"""Memory tiers opened for tests, and blobs below them that can be watched and held up."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from random import Random

from kvquilt_cache_node.eviction import DEFAULT, make_policy
from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store.hot import HotBlobs
from kvquilt_cache_node.store.tiered import Check, LookUp, TieredBlobs
from kvquilt_cache_node.types import COUNTERS, Blobs, ByteRange
from kvquilt_rpc.counters import Counters


class Watched:
    """See `Blobs`. Knows what was read, and holds reads and deletes up while `going` is clear."""

    def __init__(self, inner: Blobs) -> None:
        self._inner = inner
        self.reads: list[tuple[bytes, Sequence[ByteRange] | None]] = []
        self.streamed: list[bytes] = []
        self.loading = 0
        self.going = asyncio.Event()
        self.going.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        self.reads.append((key, ranges))
        found = await self._inner.read(key, ranges)  # before it is held up: what is changed meanwhile is not in it
        size = sum(map(len, found)) if ranges is None else 0
        self.loading += size
        try:
            await self.going.wait()
            await asyncio.sleep(0)
            return found
        finally:
            self.loading -= size

    async def pieces(self, key: bytes) -> AsyncGenerator[bytes, None]:
        self.streamed.append(key)
        async for piece in self._inner.pieces(key):
            await self.going.wait()
            yield piece

    async def delete(self, key: bytes) -> None:
        await self.going.wait()
        await self._inner.delete(key)


def stored_in(blobs: Blobs) -> LookUp:
    """What an index would say that has all of these blobs, and takes no note of when."""

    async def look_up(key: bytes) -> Stored | None:
        size = (await blobs.sizes()).get(key)
        return None if size is None else Stored(0.0, size)

    return look_up


async def nothing(key: bytes, data: bytes) -> None:
    """A check that finds all blobs sound."""


def tier(
    lower: Blobs,
    capacity: int,
    look_up: LookUp | None = None,
    *,
    check: Check = nothing,
    counters: Counters | None = None,
) -> TieredBlobs:
    """A memory tier of `capacity` bytes over `lower`."""
    count = (counters or Counters(COUNTERS)).add
    hot = HotBlobs(capacity, make_policy(DEFAULT, capacity, Random(0)), count)
    return TieredBlobs(lower, hot, look_up or stored_in(lower), check, count)
