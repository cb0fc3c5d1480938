"""How rows leave the index in SQLite: each by `drop`, within the transaction of whoever wants it gone."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kvquilt_cache_node.store import queries
from kvquilt_cache_node.types import FORGET_BATCH, Namespaces
from kvquilt_codec.identity import PUBLIC


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

    def drop(self, db: sqlite3.Connection, keys: Iterable[bytes]) -> None:
        """Drop these rows, as far as they are there."""
        for key in keys:
            gone = drop(db, key)
            if gone is not None:
                self.dropped[key] = gone


def existing(db: sqlite3.Connection, keys: Sequence[bytes], namespaces: Namespaces = None) -> list[bytes]:
    """Those of the keys that there is something of, in their order."""
    if namespaces is None:
        return [key for key in keys if db.execute(queries.EXISTS, (key,)).fetchone()]
    query = queries.owned(len(namespaces))
    return [key for key in keys if db.execute(query, (*namespaces, key)).fetchone()]


def of_namespace(db: sqlite3.Connection, keys: Sequence[bytes], namespace: str) -> Sequence[bytes]:
    """Those of the keys that are of a namespace, expired or not; without one, all."""
    if not namespace:
        return keys
    return [key for key in keys if db.execute(queries.IS_OF, (key, namespace)).fetchone()]


def remove(db: sqlite3.Connection, keys: Sequence[bytes], documents: Sequence[str], namespace: str) -> Removed:
    """Drop rows by key, and by document those that no other document holds. See `index_types.Index.remove`."""
    removed = Removed()
    named = set(of_namespace(db, keys, namespace))
    owner = namespace or PUBLIC
    touched: set[bytes] = set()
    unheld: set[bytes] = set()
    for document in documents:
        rows = db.execute("SELECT key FROM documents WHERE namespace = ? AND document_id = ?", (owner, document))
        touched |= {key for (key,) in rows}
        db.execute("DELETE FROM documents WHERE namespace = ? AND document_id = ?", (owner, document))
    for key in touched:
        if db.execute("SELECT 1 FROM documents WHERE key = ?", (key,)).fetchone():
            removed.kept += key not in named
        else:
            unheld.add(key)
            unheld |= {variant for (variant,) in db.execute(queries.UNHELD, (key,))}
    removed.drop(db, named | unheld)
    return removed


def remove_namespace(db: sqlite3.Connection, namespace: str) -> Removed:
    """Drop rows of a namespace, at most `FORGET_BATCH`."""
    removed = Removed()
    removed.drop(db, [key for (key,) in db.execute(queries.OF_NAMESPACE, (namespace, FORGET_BATCH)).fetchall()])
    return removed
