"""Stores of a cache node."""

from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.index import Index as Database
from kvquilt_cache_node.store.indexed import IndexedStore
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_cache_node.store.opening import open_store
from kvquilt_cache_node.store.sqlite_index import SqliteIndex

__all__ = ["Database", "FileBlobs", "IndexedStore", "MemoryBlobs", "SqliteIndex", "open_store"]
