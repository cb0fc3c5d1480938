"""Tiers opened for tests: a write queue and a hot tier around blobs that tests choose."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import xxhash

from kvquilt_cache_node.eviction import DEFAULT, make_policy
from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.fault import FaultBlobs
from kvquilt_cache_node.store.hot_first import HotFirstBlobs
from kvquilt_cache_node.store.hot_tier import HotTier
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.queue_files import QueueFiles
from kvquilt_cache_node.store.tiered import Check, LookUp
from kvquilt_cache_node.store.write_back import WriteBackBlobs
from kvquilt_cache_node.store.write_queue import WriteQueue
from kvquilt_cache_node.types import COUNTERS, Blobs, ByteRange
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.counters import Counters
from tests.cache_node.tiers import nothing
from tests.contracts.store_objects import key_of


async def until(condition: Callable[[], object]) -> None:
    """Wait for what happens in the background; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110  what it waits for tells nobody
        await asyncio.sleep(0.002)


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
    hurry: Hurry | None = None,
) -> WriteBackBlobs:
    """A write queue in a folder, before `cold`."""
    count = (counters or Counters(COUNTERS)).add
    files = QueueFiles(folder, fsync=False)
    try:
        queue = WriteQueue(files, max_bytes, max_entries, count)
    except BaseException:
        files.close()
        raise
    blobs = WriteBackBlobs(cold, queue, count, drain_seconds=drain, hurry=hurry or Hurry())
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
    check: Check = nothing,
    counters: Counters | None = None,
    timeout: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> HotFirstBlobs:
    """A hot tier of `capacity` bytes on `medium`, before `lower`."""
    count = (counters or Counters(COUNTERS)).add
    hot = HotTier(medium, capacity, make_policy(DEFAULT, capacity, Random(0)), count, timeout=timeout, clock=clock)
    await hot.open(lower.sizes)
    return HotFirstBlobs(lower, hot, look_up or told_by(lower), check, count)


class Tiers:
    """A hot tier over blobs in memory, with an index by hand."""

    def __init__(self) -> None:
        self.lower = Gated(MemoryBlobs())
        self.medium = MemoryBlobs()
        self.faults = FaultBlobs(self.medium)
        self.hot = Gated(self.faults)
        self.rows: dict[bytes, Stored] = {}
        self.counters = Counters(COUNTERS)
        self.blobs: HotFirstBlobs

    async def open(self, capacity: int = 1 << 20, timeout: float = 5.0, **options: object) -> "Tiers":
        self.counters = Counters(COUNTERS)
        counted = {"counters": self.counters, "timeout": timeout, **options}
        self.blobs = await hot_first(self.lower, self.hot, capacity, self.look_up, **counted)
        return self

    async def look_up(self, key: bytes) -> Stored | None:
        return self.rows.get(key)

    async def put(self, number: int, size: int, at: float = 1.0) -> bytes:
        data = Random(number + at).randbytes(size)
        await self.blobs.write(key_of(number), data)
        self.rows[key_of(number)] = Stored(at, size)
        return data

    async def forget(self, number: int) -> None:
        del self.rows[key_of(number)]
        await self.blobs.delete(key_of(number))

    async def copied(self, number: int, size: int = 1000, at: float = 1.0) -> bytes:
        """Put a blob and read it until it is in the hot tier."""
        data = await self.put(number, size, at)
        for _ in range(2):
            assert await self.blobs.read(key_of(number)) == [data]
        await until(lambda: self.blobs._copies == {})
        assert key_of(number) in await self.medium.sizes()
        self.hot.calls.clear()
        self.lower.calls.clear()
        return data

    def count(self, name: str) -> int:
        return self.counters.snapshot()[name]
