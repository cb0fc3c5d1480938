"""The database file of the index in SQLite: opened, checked, and changed in transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvquilt_cache_node.store import departures, stays
from kvquilt_cache_node.store.rows import SCHEMA, VERSION
from kvquilt_codec.errors import CapacityError, IntegrityError, UnavailableError


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a database file (or ":memory:"), which is made if it is missing. For use in any thread, one at a time.

    Raises:
        sqlite3.DatabaseError: it is damaged, of an older format, or its medium failed.
        IntegrityError: a newer kvquilt wrote it.
    """
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise IntegrityError(
                f"expected an index of format {VERSION} or older at {path}; got format {version}: a newer kvquilt "
                "wrote it, upgrade this node, or choose another folder",
                reason="unknown_version",
            )
        if 0 < version < VERSION:
            raise sqlite3.DatabaseError(f"format {version} is older than {VERSION}")
        # WAL and FULL: a committed row survives a power cut, and a kill at any point leaves a sound file.
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        db.executescript(f"BEGIN;{SCHEMA}{departures.SCHEMA}{stays.SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
        # The whole database: a damaged page that no early query touches would fail a request much later.
        (sound,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All changes inside, or none.

    Raises:
        CapacityError: the disk is full.
        UnavailableError: the database cannot be read or written.
    """
    try:
        with db:
            db.execute("BEGIN IMMEDIATE")
            yield
    except sqlite3.Error as error:
        kind = CapacityError if "full" in str(error) else UnavailableError
        raise kind(f"expected an index that can be written; got {error}: check the store's disk") from None
