"""Stores of a cache node."""

from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.index import Index
from kvquilt_cache_node.store.indexed import IndexedStore
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_cache_node.store.opening import open_store

__all__ = ["FileBlobs", "Index", "IndexedStore", "MemoryBlobs", "open_store"]
