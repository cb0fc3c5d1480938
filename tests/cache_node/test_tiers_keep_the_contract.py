"""Tiers under the contracts that any blobs and any store keep, with faults in each place."""

from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.store import Database, FileBlobs, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.types import Blobs
from tests import servers
from tests.cache_node.remote import redis_blobs, s3_blobs
from tests.cache_node.stacks import hot_first, write_back
from tests.cache_node.tiers import tier
from tests.contracts.blobs_contract import BlobsContract
from tests.contracts.store_contract import StoreContract
from tests.contracts.store_objects import Clock

FAILING = Faults(error=0.2, lost_answer=0.2)
LYING = Faults(error=0.2, truncate=0.2, flip=0.4)


class TestWriteBackOverFiles(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return write_back(FileBlobs(folder / "cold", fsync=False), folder / "queue")


class TestWriteBackThatIsOftenFull(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        cold = FileBlobs(folder / "cold", fsync=False)
        return write_back(cold, folder / "queue", max_bytes=1_500_000, max_entries=2)


class TestWriteBackThatIsOffButWorksTheQueueOff(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return write_back(FileBlobs(folder / "cold", fsync=False), folder / "queue", max_bytes=0)


class TestWriteBackOverBlobsThatFail(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        cold = FaultBlobs(FileBlobs(folder / "cold", fsync=False), {"write": FAILING, "delete": FAILING})
        return write_back(cold, folder / "queue", drain=0.05)


class TestHotFilesOverFiles(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        lower = FileBlobs(folder / "cold", fsync=False)
        return await hot_first(lower, FileBlobs(folder / "hot", fsync=False), 2_500_000)


class TestHotBlobsThatFailAndLie(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        hot = FaultBlobs(FileBlobs(folder / "hot", fsync=False), {"read": LYING, "write": FAILING, "delete": FAILING})
        return await hot_first(FileBlobs(folder / "cold", fsync=False), hot, 2_500_000)


class OnServers:
    """Memory over a hot tier in Valkey over a write queue over S3."""

    @pytest.fixture(autouse=True)
    def server(self, valkey: servers.RedisServer, s3: servers.S3Server) -> None:
        self.url, self.s3 = valkey.url, s3


class TestMemoryOverRedisOverAQueueOverS3(OnServers, BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        lower = write_back(s3_blobs(self.s3, folder), folder / "queue")
        return tier(await hot_first(lower, await redis_blobs(self.url, folder), 4_000_000), 1_200_000)


class TestStoreOnServers(OnServers, StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        index = SqliteIndex(Database(":memory:", clock, Lru()))
        lower = write_back(s3_blobs(self.s3, folder), folder / "queue")
        blobs = await hot_first(lower, await redis_blobs(self.url, folder), 2_000, index.stored)
        return IndexedStore(blobs, index, capacity)


class TestStoreWithFaultsInEachTier(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        index = SqliteIndex(Database(":memory:", clock, Lru()))
        cold = FaultBlobs(FileBlobs(folder / "cold", fsync=False), {"write": FAILING, "delete": FAILING}, seed=1)
        hot = FaultBlobs(MemoryBlobs(), {"read": LYING, "write": FAILING, "delete": FAILING}, seed=2)
        lower = write_back(cold, folder / "queue", drain=0.05)
        return IndexedStore(await hot_first(lower, hot, 2_000, index.stored), index, capacity)
