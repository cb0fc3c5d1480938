"""Encrypted blobs, and stores of them, under the contracts that any keep."""

from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.store import Database, FileBlobs, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.types import Blobs
from tests import servers
from tests.cache_node.remote import pass_time, redis_blobs, redis_index, s3_blobs
from tests.cache_node.sealing import sealed
from tests.cache_node.tiers import tier
from tests.contracts.blobs_contract import BlobsContract
from tests.contracts.store_contract import StoreContract
from tests.contracts.store_objects import Clock, Ticking


class TestSealedMemoryBlobs(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return await sealed(MemoryBlobs(), folder)


class TestSealedFileBlobs(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return await sealed(FileBlobs(folder, fsync=False), folder)


class TestSealedRedisBlobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey: servers.RedisServer) -> None:
        self.url = valkey.url

    async def open_blobs(self, folder: Path) -> Blobs:
        return await sealed(await redis_blobs(self.url, folder), folder)


class TestSealedS3Blobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def server(self, s3: servers.S3Server) -> None:
        self.s3 = s3

    async def open_blobs(self, folder: Path) -> Blobs:
        return await sealed(s3_blobs(self.s3, folder), folder)


class TestSealedBlobsOverMemory(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return await sealed(tier(MemoryBlobs(), 5 << 20), folder)


class SealedStore(StoreContract):
    """The contract's sizes are those of the objects: the store counts those here, not what they take on the medium."""

    async def index(self, folder: Path, clock: Clock) -> Index:
        return SqliteIndex(Database(":memory:", clock, Lru()))


class TestSealedMemoryStore(SealedStore):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        return IndexedStore(await sealed(MemoryBlobs(), folder), await self.index(folder, clock), capacity)


class TestSealedFileStore(SealedStore):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        blobs = await sealed(FileBlobs(folder, fsync=False), folder)
        return IndexedStore(blobs, await self.index(folder, clock), capacity)


class TestSealedRedisStore(SealedStore):
    @pytest.fixture(autouse=True)
    def server(self, valkey: servers.RedisServer) -> None:
        self.url = valkey.url

    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        blobs = await sealed(await redis_blobs(self.url, folder), folder)
        return IndexedStore(blobs, await redis_index(self.url, folder), capacity)

    async def later(self, store: IndexedStore, clock: Ticking, seconds: float) -> None:
        await pass_time(store._index, seconds)


class TestSealedObjectStore(SealedStore):
    @pytest.fixture(autouse=True)
    def server(self, s3: servers.S3Server) -> None:
        self.s3 = s3

    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        blobs = await sealed(s3_blobs(self.s3, folder), folder)
        return IndexedStore(blobs, await self.index(folder, clock), capacity)
