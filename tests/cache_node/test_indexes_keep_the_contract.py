"""The indexes that kvquilt has, under the contract that any index keeps."""

from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.store import Database, SqliteIndex
from tests import servers
from tests.cache_node.remote import pass_time, redis_index
from tests.contracts.index_contract import IndexContract
from tests.contracts.store_objects import Clock, Ticking


class TestSqliteIndex(IndexContract):
    spared_counts_as_used = True

    async def open_indexes(self, folder: Path, clock: Clock) -> list[Index]:
        return [SqliteIndex(Database(folder / "index.sqlite", clock, Lru()))]


class SharedIndexContract(IndexContract):
    """Time is the server's: what the index adds to it is changed."""

    spared_counts_as_used = False

    async def later(self, index: Index, clock: Ticking, seconds: float) -> None:
        await pass_time(index, seconds)


class TestRedisIndex(SharedIndexContract):
    @pytest.fixture(autouse=True)
    def url(self, valkey: servers.RedisServer) -> None:
        self.url = valkey.url

    async def open_indexes(self, folder: Path, clock: Clock) -> list[Index]:
        return [await redis_index(self.url, folder) for _ in range(2)]


class TestRedisClusterIndex(SharedIndexContract):
    @pytest.fixture(autouse=True)
    def url(self, valkey_cluster: list[servers.RedisServer]) -> None:
        self.url = servers.cluster_url(valkey_cluster)

    async def open_indexes(self, folder: Path, clock: Clock) -> list[Index]:
        return [await redis_index(self.url, folder) for _ in range(2)]
