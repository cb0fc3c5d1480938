"""Opens the store that the settings name, and heals what an earlier process left."""

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.index import Index
from kvquilt_cache_node.store.indexed import IndexedStore
from kvquilt_cache_node.store.locking import locked
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_cache_node.types import Blobs
from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import GateMeta, Meta, ProfileMeta
from kvquilt_codec.container.head import MAGIC
from kvquilt_codec.errors import BadRequestError, CapacityError, IntegrityError, UnavailableError
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
        BadRequestError: settings that do not fit together, or of a package that is not installed.
        UnavailableError: its folder cannot be written, another process holds it, or its server refuses or is not there.
        DeadlineError: its server does not answer.
    """
    if settings.store == "memory":
        return await IndexedStore.open(MemoryBlobs(), Index(":memory:", time.time), int(settings.capacity), describe)
    blobs = await _open_blobs(settings)
    try:
        if settings.store == "file":
            index = _open_index(settings.path / "index.sqlite", Index)
        else:
            index = _open_index(settings.path / settings.store / "index.sqlite", _LockedIndex)
        try:
            return await IndexedStore.open(blobs, index, int(settings.capacity), describe)
        except BaseException:
            index.close()
            raise
    except BaseException:
        await blobs.close()
        raise


class _LockedIndex(Index):
    """An index that holds its folder for this process; the file store's own lock does that for its index."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._folder = locked(path.parent)
        try:
            super().__init__(path, clock)
        except BaseException:
            self._folder.close()
            raise

    def close(self) -> None:
        """See `Index.close`."""
        super().close()
        self._folder.close()


async def _open_blobs(settings: NodeSettings) -> Blobs:
    if settings.store == "redis":
        return await _redis_blobs(settings)
    if settings.store == "object":
        return _object_blobs(settings)
    return FileBlobs(settings.path, fsync=settings.fsync)


async def _redis_blobs(settings: NodeSettings) -> Blobs:
    try:
        from kvquilt_cache_node.store.redis_blobs import RedisBlobs
        from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
    except ModuleNotFoundError as error:
        raise _not_installed(error, "redis") from None
    url = RedisUrl.parse("" if settings.redis_url is None else settings.redis_url.get_secret_value())
    tls = (settings.redis_ca, settings.redis_certificate, settings.redis_key)
    client = await RedisClient.connect(url, RedisOptions(settings.redis_connections, settings.redis_timeout, *tls))
    try:
        return RedisBlobs(client, settings.redis_prefix)
    except BaseException:
        await client.close()
        raise


def _object_blobs(settings: NodeSettings) -> Blobs:
    try:
        from kvquilt_cache_node.store.object_blobs import ObjectBlobs, ObjectOptions, open_object_store
    except ModuleNotFoundError as error:
        raise _not_installed(error, "object") from None
    url = settings.object_url or ""
    secret = None if settings.object_secret is None else settings.object_secret.get_secret_value()
    options = ObjectOptions(
        settings.object_endpoint, settings.object_key_id, secret, settings.object_timeout, settings.object_retries
    )
    return ObjectBlobs(open_object_store(url, options), url)


def _not_installed(error: ModuleNotFoundError, extra: str) -> BadRequestError:
    return BadRequestError(
        f"expected the package {error.name} for node.store={extra}; it is not installed: pip install 'kvquilt[{extra}]'"
    )


def _open_index(path: Path, kind: type[Index]) -> Index:
    try:
        try:
            return kind(path, time.time)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _NOT_DAMAGE:
                raise
            # The blobs describe themselves, so a damaged index costs a scan, not the objects.
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            log.warning("the index is damaged (%s): moved to %s and rebuilt from the objects", error, aside)
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return kind(path, time.time)
    except (sqlite3.Error, OSError) as error:
        failure = CapacityError if "full" in str(error) else UnavailableError
        raise failure(f"expected an index that can be opened at {path}; got {error}: check the store's disk") from None
