"""Opens the store that the settings name, and heals what an earlier process left."""

import logging
import sqlite3
import time
from pathlib import Path
from random import Random

from kvquilt_cache_node.eviction import EvictionPolicy, make_policy
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.index import Index
from kvquilt_cache_node.store.indexed import IndexedStore
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import GateMeta, Meta, ProfileMeta
from kvquilt_codec.container.head import MAGIC
from kvquilt_codec.errors import CapacityError, IntegrityError, UnavailableError
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file

log = logging.getLogger(__name__)

_NOT_DAMAGE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
}
"""The medium failed; the index itself may be sound and is left where it is."""


def describe(key: bytes, data: bytes) -> Meta:
    """The description of an object, a profile or a gate from its own bytes.

    Raises:
        IntegrityError: damaged, or not the one of this key.
    """
    if not data.startswith(MAGIC):
        if gate_file.is_one(data):
            gate = gate_file.load(data, key.hex())
            return GateMeta(gate.model_fingerprint, gate.profile_digest)
        return ProfileMeta(profile_file.load(data, key.hex()).model_fingerprint)
    header = container.verify(data).header
    if catalog.key_of(header) != key:
        raise IntegrityError(f"expected the object of key {key.hex()[:16]}...; the container is another one")
    return catalog.from_header(header)


async def open_store(settings: NodeSettings) -> IndexedStore:
    """Open the configured store.

    Raises:
        UnavailableError: its folder cannot be written, or another process holds it.
    """
    capacity = int(settings.capacity)
    if settings.store == "memory":
        index = Index(":memory:", time.time, _policy(settings))
        return await IndexedStore.open(MemoryBlobs(), index, capacity, describe)
    blobs = FileBlobs(settings.path, fsync=settings.fsync)
    try:
        index = _open_index(settings.path / "index.sqlite", settings)
        try:
            return await IndexedStore.open(blobs, index, capacity, describe)
        except BaseException:
            index.close()
            raise
    except BaseException:
        await blobs.close()
        raise


def _policy(settings: NodeSettings) -> EvictionPolicy:
    return make_policy(settings.eviction, int(settings.capacity), Random())  # noqa: S311  draws victims, not secrets


def _open_index(path: Path, settings: NodeSettings) -> Index:
    try:
        try:
            return Index(path, time.time, _policy(settings))
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _NOT_DAMAGE:
                raise
            # The blobs describe themselves, so a damaged index costs a scan, not the objects.
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            log.warning("the index is damaged (%s): moved to %s and rebuilt from the objects", error, aside)
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return Index(path, time.time, _policy(settings))
    except (sqlite3.Error, OSError) as error:
        kind = CapacityError if "full" in str(error) else UnavailableError
        raise kind(f"expected an index that can be opened at {path}; got {error}: check the store's disk") from None
