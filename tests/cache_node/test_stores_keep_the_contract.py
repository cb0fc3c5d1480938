"""The stores that kvquilt has, under the contract that any store keeps."""

from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.store import Database, FileBlobs, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.store.fault import FaultBlobs
from tests import servers
from tests.cache_node.remote import pass_time, redis_blobs, redis_index, s3_blobs
from tests.cache_node.tiers import tier
from tests.contracts.store_contract import StoreContract
from tests.contracts.store_objects import Clock, Ticking


class TestMemoryStore(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        return IndexedStore(MemoryBlobs(), SqliteIndex(Database(":memory:", clock, Lru())), capacity)

    async def test_memory_is_gone_with_the_process(self, store: IndexedStore) -> None:
        assert store.name == "memory"
        assert not store.durable


class TestFileStore(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        blobs = FileBlobs(folder, fsync=False)
        return IndexedStore(blobs, SqliteIndex(Database(folder / "index.sqlite", clock, Lru())), capacity)

    async def test_files_outlive_the_process(self, store: IndexedStore) -> None:
        assert store.name == "file"
        assert store.durable


class TestRedisStore(StoreContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey: servers.RedisServer) -> None:
        self.url = valkey.url

    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        blobs = await redis_blobs(self.url, folder)
        return IndexedStore(blobs, SqliteIndex(Database(":memory:", clock, Lru())), capacity)

    async def test_redis_outlives_the_process(self, store: IndexedStore) -> None:
        assert (store.name, store.durable) == ("redis", True)


class TestRedisStoreWithItsIndexInRedis(StoreContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey: servers.RedisServer) -> None:
        self.url = valkey.url

    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        return IndexedStore(await redis_blobs(self.url, folder), await redis_index(self.url, folder), capacity)

    async def later(self, store: IndexedStore, clock: Ticking, seconds: float) -> None:
        await pass_time(store._index, seconds)


class TestObjectStore(StoreContract):
    @pytest.fixture(autouse=True)
    def server(self, s3: servers.S3Server) -> None:
        self.s3 = s3

    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        return IndexedStore(s3_blobs(self.s3, folder), SqliteIndex(Database(":memory:", clock, Lru())), capacity)

    async def test_object_storage_outlives_the_process(self, store: IndexedStore) -> None:
        assert (store.name, store.durable) == ("object", True)


class TestStoreOfFaultBlobsWithoutFaults(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        return IndexedStore(FaultBlobs(MemoryBlobs()), SqliteIndex(Database(":memory:", clock, Lru())), capacity)


class TestStoreWithMemoryInFront(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        index = SqliteIndex(Database(":memory:", clock, Lru()))
        return IndexedStore(tier(MemoryBlobs(), 500, index.stored), index, capacity)
