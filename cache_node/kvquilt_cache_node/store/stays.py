"""How long objects stay, in the index in SQLite: times to live, pins, and keys whose bytes are still to be deleted."""

import sqlite3
from collections.abc import Iterable, Sequence

from kvquilt_cache_node.store import removing
from kvquilt_cache_node.store.aging import Age
from kvquilt_cache_node.store.limits import refuse_pins
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.lifetime import Lifetime

FOREVER = 1e18
"""The age at which nothing ends."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS stays (
  key BLOB PRIMARY KEY REFERENCES objects ON DELETE CASCADE, ttl REAL, renewed INTEGER NOT NULL DEFAULT 0, ends REAL,
  pinned REAL, keeps INTEGER NOT NULL DEFAULT 0,
  expires REAL AS (CASE WHEN keeps AND pinned IS NOT NULL THEN max(ends, pinned) ELSE ends END)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stays_by_end ON stays (expires) WHERE expires IS NOT NULL;
CREATE INDEX IF NOT EXISTS stays_by_pin ON stays (pinned) WHERE pinned IS NOT NULL;
CREATE TABLE IF NOT EXISTS gone (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS bytes_to_delete AFTER DELETE ON objects
  BEGIN INSERT OR IGNORE INTO gone VALUES (OLD.key); END;
CREATE TRIGGER IF NOT EXISTS bytes_written AFTER INSERT ON objects
  BEGIN DELETE FROM gone WHERE key = NEW.key; END;
CREATE TABLE IF NOT EXISTS age (only INTEGER PRIMARY KEY CHECK (only = 0), age REAL NOT NULL, wall REAL NOT NULL);
"""
ALIVE = """
CREATE TEMP VIEW alive AS SELECT * FROM objects
WHERE NOT EXISTS (SELECT 1 FROM stays WHERE stays.key = objects.key AND stays.expires <= age_now());
"""
"""Objects, profiles and gates that have not expired: what anybody is told of."""

EXPIRED = "SELECT key FROM stays WHERE expires <= age_now() ORDER BY expires LIMIT ?"
_STAY = """
SELECT CASE WHEN expires < ? THEN expires - age_now() + wall_now() END, coalesce(pinned > age_now(), 0)
FROM stays WHERE key = ?
"""
_HELD = "SELECT key FROM documents WHERE namespace = ? AND document_id = ?"
_SIZE = "SELECT stored_bytes FROM alive WHERE key = ? AND kind = 'object'"
_PINNED = "SELECT coalesce(sum(stored_bytes), 0) FROM stays JOIN objects USING (key) WHERE pinned IS NOT NULL"
_PIN = """
INSERT INTO stays (key, pinned, keeps) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET pinned = excluded.pinned, keeps = excluded.keeps
"""


def tell_age(db: sqlite3.Connection, age: Age) -> None:
    """Let queries of this connection know the time."""
    db.create_function("age_now", 0, age)
    db.create_function("wall_now", 0, lambda: age.state[1])
    db.executescript(ALIVE)


def known_age(db: sqlite3.Connection) -> tuple[float, float] | None:
    """`Age.state` as it was last kept."""
    found: tuple[float, float] | None = db.execute("SELECT age, wall FROM age").fetchone()
    return found


def keep_age(db: sqlite3.Connection, age: Age) -> None:
    """Keep the age for the next process."""
    age()
    db.execute("INSERT OR REPLACE INTO age VALUES (0, ?, ?)", age.state)


def enter(db: sqlite3.Connection, key: bytes, lifetime: Lifetime | None, age: Age, *, adopted: bool) -> None:
    """Begin the time to live of what is stored; of what was found again, it ends as its writer said at the latest."""
    if lifetime is None:
        return
    now, wall = age(), age.state[1]
    ends = now + (min(lifetime.seconds, lifetime.until - wall) if adopted else lifetime.seconds)
    insert = "INSERT INTO stays (key, ttl, renewed, ends) VALUES (?, ?, ?, ?)"
    db.execute(insert, (key, lifetime.seconds, lifetime.renewed, ends))


def renew(db: sqlite3.Connection, uses: Iterable[tuple[bytes, float]]) -> None:
    """Begin the times to live anew that uses renew; each with the age at its last use."""
    update = "UPDATE stays SET ends = max(ends, ? + ttl) WHERE key = ? AND renewed"
    db.executemany(update, [(age, key) for key, age in uses])


def expired(db: sqlite3.Connection, limit: int) -> list[bytes]:
    """Keys of objects whose time to live has ended though their rows are there, the first to end first."""
    return [key for (key,) in db.execute(EXPIRED, (limit,))]


def stay_of(db: sqlite3.Connection, key: bytes) -> tuple[float | None, bool]:
    """When an object expires, by the wall clock (`None`: never), and whether it is pinned."""
    row = db.execute(_STAY, (FOREVER, key)).fetchone()
    return (None, False) if row is None else (row[0], bool(row[1]))


def pin(
    db: sqlite3.Connection,
    keys: Sequence[bytes],
    documents: Sequence[str],
    namespace: str,
    most_bytes: int,
    until: float,
    *,
    keeps: bool,
) -> list[bytes]:
    """Pin objects until an age; the keys of those that exist.

    Raises:
        CapacityError: more than `most_bytes` would be pinned.
    """
    sizes: dict[bytes, int] = {}
    for key in _named(db, keys, documents, namespace):
        row = db.execute(_SIZE, (key,)).fetchone()
        if row is not None:
            sizes[key] = row[0]
    pinned = pinned_bytes(db)
    fresh = sum(size for key, size in sizes.items() if not _is_pinned(db, key))
    if fresh and pinned + fresh > most_bytes:
        refuse_pins(pinned, most_bytes)
    db.executemany(_PIN, [(key, until, keeps) for key in sizes])
    return list(sizes)


def unpin(db: sqlite3.Connection, keys: Iterable[bytes]) -> list[bytes]:
    """Pin these no more; those that were pinned."""
    found = [key for key in dict.fromkeys(keys) if _is_pinned(db, key)]
    db.executemany("UPDATE stays SET pinned = NULL, keeps = 0 WHERE key = ?", [(key,) for key in found])
    return found


def unpin_named(db: sqlite3.Connection, keys: Sequence[bytes], documents: Sequence[str], namespace: str) -> list[bytes]:
    """As `unpin`, by key and by document."""
    return unpin(db, _named(db, keys, documents, namespace))


def pins_ended(db: sqlite3.Connection, now: float) -> list[bytes]:
    """Keys whose pins have run out."""
    return [key for (key,) in db.execute("SELECT key FROM stays WHERE pinned <= ? ORDER BY pinned, key", (now,))]


def pinned_bytes(db: sqlite3.Connection) -> int:
    """Bytes of pinned objects."""
    (pinned,) = db.execute(_PINNED).fetchone()
    return int(pinned)


def are_there(db: sqlite3.Connection) -> bool:
    """Whether anything expires, is pinned or is to be deleted."""
    return db.execute("SELECT 1 FROM stays UNION ALL SELECT 1 FROM gone LIMIT 1").fetchone() is not None


def gone(db: sqlite3.Connection, after: bytes, limit: int) -> list[bytes]:
    """Keys whose bytes are to be deleted, from `after` on, in the order of keys."""
    found = db.execute("SELECT key FROM gone WHERE key > ? ORDER BY key LIMIT ?", (after, limit))
    return [key for (key,) in found]


def count_gone(db: sqlite3.Connection) -> int:
    """How many keys have bytes that are to be deleted."""
    (count,) = db.execute("SELECT count(*) FROM gone").fetchone()
    return int(count)


def is_gone(db: sqlite3.Connection, key: bytes) -> bool:
    """Whether the bytes of a key are to be deleted."""
    return db.execute("SELECT 1 FROM gone WHERE key = ?", (key,)).fetchone() is not None


def deleted(db: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """The bytes of these keys are deleted."""
    db.executemany("DELETE FROM gone WHERE key = ?", [(key,) for key in keys])


def _named(db: sqlite3.Connection, keys: Sequence[bytes], documents: Sequence[str], namespace: str) -> list[bytes]:
    owner = namespace or PUBLIC
    held = [key for document in documents for (key,) in db.execute(_HELD, (owner, document))]
    return list(dict.fromkeys([*removing.of_namespace(db, keys, namespace), *held]))


def _is_pinned(db: sqlite3.Connection, key: bytes) -> bool:
    return db.execute("SELECT 1 FROM stays WHERE key = ? AND pinned IS NOT NULL", (key,)).fetchone() is not None
