"""Tiers opened for tests: a write queue and a hot tier around blobs that tests choose."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

import xxhash

from kvquilt_cache_node.eviction import DEFAULT, make_policy
from kvquilt_cache_node.store.hot_first import HotFirstBlobs
from kvquilt_cache_node.store.hot_tier import HotTier
from kvquilt_cache_node.store.queue_files import QueueFiles
from kvquilt_cache_node.store.tiered import Check, LookUp
from kvquilt_cache_node.store.write_back import WriteBackBlobs
from kvquilt_cache_node.store.write_queue import WriteQueue
from kvquilt_cache_node.types import COUNTERS, Blobs, ByteRange, Stored
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.counters import Counters


class Gated:
    """See `Blobs`. Knows what was called, and lets calls wait, before they do anything, while `going` is clear."""

    def __init__(self, inner: Blobs) -> None:
        self._inner = inner
        self.calls: list[tuple[str, bytes]] = []
        self.going = asyncio.Event()
        self.going.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def write(self, key: bytes, data: bytes) -> None:
        self.calls.append(("write", key))
        await self.going.wait()
        await self._inner.write(key, data)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        self.calls.append(("read", key))
        await self.going.wait()
        return await self._inner.read(key, ranges)

    async def delete(self, key: bytes) -> None:
        self.calls.append(("delete", key))
        await self.going.wait()
        await self._inner.delete(key)


def write_back(
    cold: Blobs,
    folder: Path,
    *,
    max_bytes: int = 1 << 30,
    max_entries: int = 1000,
    drain: float = 10.0,
    counters: Counters | None = None,
    started: bool = True,
) -> WriteBackBlobs:
    """A write queue in a folder, before `cold`."""
    count = (counters or Counters(COUNTERS)).add
    queue = WriteQueue(QueueFiles(folder, fsync=False), max_bytes, max_entries, count)
    blobs = WriteBackBlobs(cold, queue, count, drain_seconds=drain)
    if started:
        blobs.start()
    return blobs


def told_by(blobs: Blobs) -> LookUp:
    """What an index would say that has all of these blobs: the time stands for the bytes."""

    async def look_up(key: bytes) -> Stored | None:
        try:
            (data,) = await blobs.read(key)
        except KvquiltError:
            return None
        return Stored(float(xxhash.xxh32_intdigest(data)), len(data))

    return look_up


async def hot_first(
    lower: Blobs,
    medium: Blobs,
    capacity: int,
    look_up: LookUp | None = None,
    *,
    check: Check = lambda *_: None,
    counters: Counters | None = None,
    timeout: float = 5.0,
) -> HotFirstBlobs:
    """A hot tier of `capacity` bytes on `medium`, before `lower`."""
    count = (counters or Counters(COUNTERS)).add
    hot = HotTier(medium, capacity, make_policy(DEFAULT, capacity, Random(0)), count, timeout=timeout)
    await hot.open(lower.sizes)
    return HotFirstBlobs(lower, hot, look_up or told_by(lower), check, count)
