"""Opens the index that the settings name; one in SQLite that is damaged is put aside."""

import logging
import sqlite3
import time
from pathlib import Path
from random import Random

from kvquilt_cache_node.eviction import EvictionPolicy, make_policy
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.index import Index as Database
from kvquilt_cache_node.store.locking import locked
from kvquilt_cache_node.store.opening_blobs import not_installed
from kvquilt_cache_node.store.rooms import Shares
from kvquilt_cache_node.store.sqlite_index import SqliteIndex
from kvquilt_codec.errors import CapacityError, UnavailableError

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


async def open_index(settings: NodeSettings, *, anew: bool = False) -> Index:
    """Open the index of the configured store.

    Args:
        settings: of the node.
        anew: put an index that is there aside (SQLite), or delete it (Redis).

    Raises:
        BadRequestError: the settings do not fit the index, or need a package that is not installed.
        IntegrityError: the index is of a format that this version does not know.
        UnavailableError: it cannot be opened, or reached; or another process holds it.
        DeadlineError: its server does not answer.
    """
    if settings.index == "redis":
        return await _redis_index(settings, anew)
    if settings.store == "memory":
        return SqliteIndex(_database(":memory:", settings))
    if settings.store == "file":
        return SqliteIndex(_open_database(settings.path / "index.sqlite", settings, anew))
    folder = settings.path / settings.store
    lock = locked(folder)  # as the file store's own
    try:
        return SqliteIndex(_open_database(folder / "index.sqlite", settings, anew), lock)
    except BaseException:
        lock.close()
        raise


def _database(path: Path | str, settings: NodeSettings) -> Database:
    return Database(path, time.time, _policy(settings), settings.departures)


def _policy(settings: NodeSettings) -> EvictionPolicy | Shares:
    capacity = int(settings.capacity)

    def made(nbytes: int) -> EvictionPolicy:
        return make_policy(settings.eviction, nbytes, Random())  # noqa: S311  draws victims, not secrets

    return made(capacity) if settings.quotas is None else Shares(settings.quotas, made, capacity)


async def _redis_index(settings: NodeSettings, anew: bool) -> Index:
    try:
        from kvquilt_cache_node.store.opening_redis import connect
        from kvquilt_cache_node.store.redis_index import RedisIndex
    except ModuleNotFoundError as error:
        raise not_installed(error, "node.index", "redis") from None
    client = await connect(settings)
    try:
        if anew:
            await RedisIndex.erase(client, settings.redis_prefix)
        return await RedisIndex.open(
            client,
            settings.redis_prefix,
            settings.eviction,
            lease=settings.lease_seconds,
            quotas=settings.quotas,
            departures=settings.departures,
        )
    except BaseException:
        await client.close()
        raise


def _open_database(path: Path, settings: NodeSettings, anew: bool) -> Database:
    try:
        if anew and path.exists():
            _put_aside(path)
        try:
            return _database(path, settings)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _NOT_DAMAGE:
                raise
            # The blobs describe themselves, so a damaged index costs a scan, not the objects.
            log.warning("the index is damaged: %s", error)
            _put_aside(path)
            return _database(path, settings)
    except (sqlite3.Error, OSError) as error:
        kind = CapacityError if "full" in str(error) else UnavailableError
        raise kind(f"expected an index that can be opened at {path}; got {error}: check the store's disk") from None


def _put_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    log.warning("the index is moved to %s and rebuilt from the objects", aside)
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
