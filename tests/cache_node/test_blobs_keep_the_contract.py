"""The blobs that kvquilt has, under the contract that any blobs keep."""

from pathlib import Path

import pytest

from kvquilt_cache_node.store import FileBlobs, MemoryBlobs
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.store.object_blobs import ObjectBlobs, ObjectOptions, open_object_store
from kvquilt_cache_node.types import Blobs
from tests import servers
from tests.cache_node.remote import redis_blobs, s3_blobs
from tests.cache_node.tiers import tier
from tests.contracts.blobs_contract import BlobsContract


class TestMemoryBlobs(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return MemoryBlobs()


class TestFileBlobs(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return FileBlobs(folder, fsync=False)


class TestRedisBlobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey: servers.RedisServer) -> None:
        self.url = valkey.url

    async def open_blobs(self, folder: Path) -> Blobs:
        return await redis_blobs(self.url, folder)


class TestRedisClusterBlobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey_cluster: list[servers.RedisServer]) -> None:
        self.url = servers.cluster_url(valkey_cluster)

    async def open_blobs(self, folder: Path) -> Blobs:
        return await redis_blobs(self.url, folder)


class TestS3Blobs(BlobsContract):
    @pytest.fixture(autouse=True)
    def server(self, s3: servers.S3Server) -> None:
        self.s3 = s3

    async def open_blobs(self, folder: Path) -> Blobs:
        return s3_blobs(self.s3, folder)


class TestObjectBlobsInAFolder(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        url = f"file://{folder}/objects"
        return ObjectBlobs(open_object_store(url, ObjectOptions()), url)


class TestFaultBlobsWithoutFaults(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return FaultBlobs(MemoryBlobs())


class TestTieredBlobsOverMemory(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return tier(MemoryBlobs(), 2_500_000)


class TestTieredBlobsOverFiles(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        return tier(FileBlobs(folder, fsync=False), 2_500_000)


class TestTieredBlobsOverBlobsThatAreLateAtTimes(BlobsContract):
    async def open_blobs(self, folder: Path) -> Blobs:
        late = Faults(latency=0.0005, slow=0.5)
        return tier(FaultBlobs(MemoryBlobs(), {"read": late, "write": late, "delete": late}), 8_000_000)
