"""How rows leave the index in SQLite: each by `drop`, within the transaction of whoever wants it gone."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvquilt_cache_node.store import queries


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a row said that is gone: bytes, seconds that computing took, uses, and whose it was."""

    size: int
    compute_seconds: float
    use_count: int
    namespace: str


def drop(db: sqlite3.Connection, key: bytes) -> Dropped | None:
    """Drop a row; `None` if there is none."""
    row = db.execute(queries.DROP, (key,)).fetchone()
    return None if row is None else Dropped(*row)


@dataclass(slots=True)
class Removed:
    """What a removal dropped.

    Attributes:
        dropped: by key.
        kept: objects that stay for other documents.
    """

    dropped: dict[bytes, Dropped] = field(default_factory=dict)
    kept: int = 0


def remove(db: sqlite3.Connection, keys: Sequence[bytes], documents: Sequence[str]) -> Removed:
    """Drop rows by key, and by document those that no other document holds. See `types.Index.remove`."""
    removed = Removed()
    named = set(keys)
    touched: set[bytes] = set()
    unheld: set[bytes] = set()
    for document in documents:
        rows = db.execute("SELECT key FROM documents WHERE document_id = ?", (document,))
        touched |= {key for (key,) in rows}
        db.execute("DELETE FROM documents WHERE document_id = ?", (document,))
    for key in touched:
        if db.execute("SELECT 1 FROM documents WHERE key = ?", (key,)).fetchone():
            removed.kept += key not in named
        else:
            unheld.add(key)
            unheld |= {variant for (variant,) in db.execute(queries.UNHELD, (key,))}
    for key in named | unheld:
        gone = drop(db, key)
        if gone is not None:
            removed.dropped[key] = gone
    return removed
