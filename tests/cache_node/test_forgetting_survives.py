"""What is forgotten stays forgotten: bytes that a server would not delete are deleted later, and never adopted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.store import Database, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.store.opening import describe
from kvquilt_cache_node.store.repair import Repair, Repaired
from kvquilt_cache_node.store.sweeping import swept
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.errors import KvquiltError, NotFoundError
from kvquilt_codec.types import Level
from tests import servers
from tests.cache_node.calls import DEADLINE, serving
from tests.cache_node.remote import redis_blobs, redis_index, s3_blobs
from tests.codec.samples import make_chunk, make_object
from tests.contracts.store_objects import CAPACITY as SMALL
from tests.contracts.store_objects import data_of, key_of, meta_of, put, ticking

OBJECTS = [make_object(make_chunk(5, seed=seed), Level.HIGH, f"doc {seed}") for seed in range(3)]
KEYS = [key for key, _, _ in OBJECTS]
CAPACITY = 1 << 20
LEASE = 0.5


@dataclass
class Medium:
    """A blob server of a test's own, and how to reach it."""

    process: servers.Process
    open: Callable[[], Awaitable[Blobs]]


@contextmanager
def medium(kind: str, folder: Path) -> Iterator[Medium]:
    """A real one, which keeps what it acknowledged when it is killed."""
    if kind == "redis":
        with servers.valkey(folder / "blobs", "--appendonly", "yes", "--appendfsync", "always") as server:
            yield Medium(server.process, lambda: redis_blobs(server.url, folder, timeout=1.0))
    else:
        with servers.s3(folder / "blobs") as server:

            async def opened() -> Blobs:
                return s3_blobs(server, folder, timeout=20.0, retries=0)

            yield Medium(server.process, opened)


@asynccontextmanager
async def store_of(blobs: Blobs, index: Index) -> AsyncIterator[IndexedStore]:
    store = IndexedStore(blobs, index, CAPACITY)
    yield store
    await store.close()


async def until(asked: Callable[[], Awaitable[object]]) -> None:
    """Ask until the answer is yes."""
    give_up = time.monotonic() + 60
    while not await asked():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)


async def listed(server: Medium) -> set[bytes] | None:
    """Keys of the blobs, as a new client sees them."""
    try:
        blobs = await server.open()
    except KvquiltError:
        return None
    try:
        return set(await blobs.sizes())
    except KvquiltError:
        return None
    finally:
        await blobs.close()


@pytest.mark.parametrize("shared", [False, True], ids=["sqlite", "redis"])
@pytest.mark.parametrize("kind", ["redis", "object"])
async def test_what_is_forgotten_while_the_blob_server_is_down_is_gone_after_a_restart(
    valkey: servers.RedisServer, tmp_path: Path, kind: str, shared: bool
) -> None:
    async def open_index() -> Index:
        if shared:
            return await redis_index(valkey.url, tmp_path, lease=LEASE)
        return SqliteIndex(Database(tmp_path / "index.sqlite", time.time, Lru()))

    with medium(kind, tmp_path) as server:
        async with store_of(await server.open(), await open_index()) as store:
            for key, data, meta in OBJECTS:
                await store.put_if_absent(key, data, meta)
            server.process.kill()
            receipt = await store.forget([], ["doc 1"])
            assert (receipt.deleted, receipt.pending) == ((KEYS[1],), 1)
            assert (await store.usage()).pending_deletions == 1
            with pytest.raises(NotFoundError):
                await store.get(KEYS[1])
        server.process.start()
        await until(lambda: listed(server))
        assert await listed(server) == set(KEYS), "the bytes are there still"
        blobs, index = await server.open(), await open_index()

        async def nobody_holds_it() -> bool:  # the node that is gone did
            return not shared or await index.reserve(KEYS[1], 0, CAPACITY) is not None

        await until(nobody_holds_it)
        await index.release([KEYS[1]])
        assert await Repair(blobs, index, CAPACITY, describe).run() == Repaired(blobs=2, rows=2, finished=1)
        async with store_of(blobs, index) as store:
            assert {info.key for info in await store.list()} == {KEYS[0], KEYS[2]}
            assert (await store.usage()).pending_deletions == 0
            assert await store.put_if_absent(*OBJECTS[1]) is True, "and it may come again"
            assert await store.get(KEYS[1]) == [OBJECTS[1][1]]


async def test_a_running_node_deletes_it_once_the_server_is_back(tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "blobs", "--appendonly", "yes", "--appendfsync", "always") as server:
        options = {"redis_url": server.url, "redis_timeout": 1.0, "sweep_seconds": 0.1, "memory_bytes": 0}
        async with serving("redis", tmp_path, **options) as node:
            for key, data, meta in OBJECTS:
                await node.client.put(key, data, meta, deadline=DEADLINE)
            server.process.kill()
            receipt = await node.client.forget(keys=[KEYS[0]], deadline=DEADLINE)
            assert (receipt.deleted, receipt.pending) == ((KEYS[0],), 1)
            assert (await node.client.status(deadline=DEADLINE)).pending_deletions == 1
            server.process.start()

            async def nothing_is_pending() -> bool:
                return (await node.client.status(deadline=DEADLINE)).pending_deletions == 0

            await until(nothing_is_pending)
            blobs = await redis_blobs(server.url, tmp_path)
            assert not [name async for names in blobs._client.scan("*" + KEYS[0].hex() + "*", 99) for name in names]
            await blobs.close()


async def test_what_cannot_be_deleted_is_tried_again_and_holds_nothing_else_up() -> None:
    blobs = FaultBlobs(MemoryBlobs())
    store = IndexedStore(blobs, SqliteIndex(Database(":memory:", ticking(), Lru())), SMALL)
    for number in range(3):
        await put(store, number)
    blobs.faults = {"delete": Faults(error=1.0)}
    assert (await store.forget([key_of(0), key_of(1)], [])).pending == 2
    assert await put(store, 0) is True
    assert await store.get(key_of(0)) == [data_of(0, 100)]
    with pytest.raises(KvquiltError):
        await store.sweep()
    assert await store.get(key_of(2)) == [data_of(2, 100)]
    blobs.faults = {}
    async with swept(store.sweep, 0.05):

        async def done() -> bool:
            return (await store.usage()).pending_deletions == 0

        await until(done)
    assert set(await blobs.sizes()) == {info.key for info in await store.list()}
    await store.close()


async def test_a_put_of_what_is_to_be_deleted_wins_once_it_is_acknowledged(tmp_path: Path) -> None:
    blobs, index = FaultBlobs(MemoryBlobs()), SqliteIndex(Database(tmp_path / "index.sqlite", ticking(), Lru()))
    store = IndexedStore(blobs, index, SMALL)
    await put(store, 1)
    blobs.faults = {"delete": Faults(error=1.0)}
    assert (await store.forget([key_of(1)], [])).pending == 1
    blobs.faults = {"write": Faults(error=1.0), "delete": Faults(error=1.0)}
    with pytest.raises(KvquiltError):
        await put(store, 1)
    assert await index.is_gone(key_of(1)), "a put that failed changes nothing"
    blobs.faults = {}
    assert await store.put_if_absent(key_of(1), data_of(1, 200), meta_of()) is True
    assert not await index.is_gone(key_of(1))
    await store.sweep()
    assert await store.get(key_of(1)) == [data_of(1, 200)]
    await store.close()
