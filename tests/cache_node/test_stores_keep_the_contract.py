"""The stores that kvquilt has, under the contract that any store keeps."""

from pathlib import Path

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.store import FileBlobs, Index, IndexedStore, MemoryBlobs
from kvquilt_cache_node.store.opening import describe
from tests.contracts.store_contract import StoreContract
from tests.contracts.store_objects import Clock


class TestMemoryStore(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        return await IndexedStore.open(MemoryBlobs(), Index(":memory:", clock, Lru()), capacity, describe)

    async def test_memory_is_gone_with_the_process(self, store: IndexedStore) -> None:
        assert store.name == "memory"
        assert not store.durable


class TestFileStore(StoreContract):
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> IndexedStore:
        blobs = FileBlobs(folder, fsync=False)
        return await IndexedStore.open(blobs, Index(folder / "index.sqlite", clock, Lru()), capacity, describe)

    async def test_files_outlive_the_process(self, store: IndexedStore) -> None:
        assert store.name == "file"
        assert store.durable
