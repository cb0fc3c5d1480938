"""The index in SQLite: which objects there are, whose, how big, how used; and what must go to make room."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from kvquilt_cache_node.eviction import EvictionPolicy
from kvquilt_cache_node.store import queries
from kvquilt_cache_node.store.rows import (
    COLUMNS,
    INSERT,
    SCHEMA,
    VERSION,
    Row,
    fingerprint_rows,
    info_of,
    kind_of,
    row_of,
)
from kvquilt_cache_node.store.victims import Victims, entry_of, fill
from kvquilt_cache_node.types import Stored, Usage
from kvquilt_codec.catalog import ChunkMatch, GateInfo, Meta, ObjectInfo, ObjectMeta, ProfileInfo
from kvquilt_codec.errors import CapacityError, UnavailableError

log = logging.getLogger(__name__)

_MAX_PENDING_USES = 256
_VARIABLES = 500  # keys a query, below SQLite's limit of bound variables


class Index:
    """Rows about objects, and the sum of their bytes. Safe from any thread; every method is one transaction.

    Args:
        path: database file, or ":memory:".
        clock: seconds since the epoch.
        policy: says which object makes room. It holds nothing yet, and is this index's own from now on.
    """

    def __init__(self, path: Path | str, clock: Callable[[], float], policy: EvictionPolicy) -> None:
        self._clock = clock
        self._policy = policy
        self._lock = threading.Lock()
        self._uses: dict[bytes, tuple[int, float]] = {}
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            # WAL and FULL: a committed row survives a power cut, and a kill at any point leaves a sound file.
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
            self._db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
            # The whole database: a damaged page that no early query touches would fail a request much later.
            (sound,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
            (self._used,) = self._db.execute("SELECT coalesce(sum(stored_bytes), 0) FROM objects").fetchone()
            fill(policy, self._db)
        except sqlite3.DatabaseError:
            self._db.close()
            raise
        self._reserved = 0

    def close(self) -> None:
        """Write pending uses and close."""
        with self._lock:
            self._flush_uses_if_possible()
            self._db.close()

    def add_documents(self, key: bytes, documents: Sequence[str]) -> bool:
        """Let more documents hold an object; `False` if there is no such object."""
        with self._lock, self._transaction():
            if self._db.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone() is None:
                return False
            self._insert_documents(key, documents)
            return True

    def reserve(self, size: int, capacity: int) -> list[bytes]:
        """Set `size` bytes apart for a write, and drop the rows of the returned keys, which make room for it.

        Raises:
            CapacityError: the room cannot be made: too large for the cap, or others are writing.
        """
        with self._lock:
            if size + self._reserved > capacity:
                raise CapacityError(
                    f"expected an object of at most {capacity - self._reserved} bytes under the cap of {capacity}; "
                    f"got {size}: raise the cap",
                    reason="over_cap",
                )
            victims = Victims()
            try:
                with self._transaction():
                    self._flush_uses()
                    victims.drop(self._db, self._policy, self._used + self._reserved + size - capacity)
            except BaseException:
                victims.put_back(self._policy)  # as the rows and the sums: a full disk must change nothing
                raise
            self._used -= victims.nbytes
            self._reserved += size
            return list(victims.sizes)

    def release(self, size: int) -> None:
        """Give a reservation back."""
        with self._lock:
            self._reserved -= size

    def commit(self, key: bytes, size: int, meta: Meta, *, reserved: bool = True) -> None:
        """Enter what is written: an object, a profile or a gate. From now on it exists."""
        now = self._clock()
        with self._lock:
            with self._transaction():
                self._db.execute(INSERT, (kind_of(meta), *row_of(key, meta, size, now)))
                if isinstance(meta, ObjectMeta):
                    self._insert_documents(key, meta.document_ids)
                    known = "INSERT OR IGNORE INTO fingerprints VALUES (?,?,?,?)"
                    self._db.executemany(known, fingerprint_rows(meta))
            if isinstance(meta, ObjectMeta):
                self._policy.insert(key, entry_of(size, meta.compute_seconds, 0))
            self._used += size
            self._reserved -= size if reserved else 0

    def use(self, keys: Sequence[bytes], documents: Sequence[str] = ()) -> list[bytes]:
        """Count a use of each object and let more documents hold it; return the keys that exist.

        Uses are kept in memory and written in batches: losing a count with the process costs nothing.
        """
        with self._lock:
            exists = "SELECT 1 FROM objects WHERE key = ?"
            found = [key for key in keys if self._db.execute(exists, (key,)).fetchone()]
            for key in found:
                count, _ = self._uses.get(key, (0, 0.0))
                self._uses[key] = (count + 1, self._clock())
                if key in self._policy:
                    self._policy.use(key)
            if documents:
                with self._transaction():
                    self._flush_uses()
                    for key in found:
                        self._insert_documents(key, documents)
            elif len(self._uses) >= _MAX_PENDING_USES:
                self._flush_uses_if_possible()
            return found

    def remove(self, keys: Sequence[bytes], documents: Sequence[str] = ()) -> tuple[dict[bytes, int], int]:
        """Drop rows by key, and by document those that no other document holds.

        See `types.Index.remove`.
        """
        with self._lock:
            named = set(keys)
            touched: set[bytes] = set()
            unheld: set[bytes] = set()
            shared = 0
            dropped: dict[bytes, int] = {}
            with self._transaction():
                for document in documents:
                    rows = self._db.execute("SELECT key FROM documents WHERE document_id = ?", (document,))
                    touched |= {key for (key,) in rows}
                    self._db.execute("DELETE FROM documents WHERE document_id = ?", (document,))
                for key in touched:
                    if self._db.execute("SELECT 1 FROM documents WHERE key = ?", (key,)).fetchone():
                        shared += key not in named
                    else:
                        unheld.add(key)
                        unheld |= {variant for (variant,) in self._db.execute(queries.UNHELD, (key,))}
                named |= unheld
                for key in named:
                    row = self._db.execute(
                        "DELETE FROM objects WHERE key = ? RETURNING stored_bytes", (key,)
                    ).fetchone()
                    if row is not None:
                        dropped[key] = row[0]
            for key in named:
                self._uses.pop(key, None)
                self._policy.remove(key)
            self._used -= sum(dropped.values())
            return dropped, shared

    def stored(self, key: bytes) -> Stored | None:
        """When something was stored, and how big it is."""
        with self._lock:
            row = self._db.execute("SELECT created, stored_bytes FROM objects WHERE key = ?", (key,)).fetchone()
            return None if row is None else Stored(*row)

    def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """Drop the row of a key whose bytes are gone, unless it has been stored again since `stored_at`."""
        drop = "DELETE FROM objects WHERE key = ? AND created = ? RETURNING stored_bytes"
        with self._lock:
            with self._transaction():
                row = self._db.execute(drop, (key, stored_at)).fetchone()
            if row is None:
                return False
            self._policy.remove(key)
            self._used -= row[0]
            return True

    def profiles(self) -> list[ProfileInfo]:
        """All profiles, the most recently used first."""
        with self._lock:
            self._flush_uses_if_possible()
            return [ProfileInfo(*row) for row in self._db.execute(queries.PROFILES)]

    def gates(self, model_fingerprint: str, profile_digest: str) -> list[GateInfo]:
        """The gates of a model and a codec profile, the one that was stored last first."""
        with self._lock:
            return [GateInfo(*row) for row in self._db.execute(queries.GATES, (profile_digest, model_fingerprint))]

    def find(self, keys: Sequence[bytes] | None = None) -> list[ObjectInfo]:
        """What is known of the objects among `keys`, or of all objects, the most recently used first."""
        with self._lock:
            self._flush_uses_if_possible()
            with self._transaction():
                return self._found(keys)

    def find_variants(
        self, chunk_keys: Sequence[bytes], model_fingerprint: str, prefix_digest: bytes, limit: int
    ) -> dict[bytes, list[ObjectInfo]]:
        """Objects by chunk key, at most `limit` of each, the most recently used first."""
        found: dict[bytes, list[ObjectInfo]] = {}
        with self._lock:
            self._flush_uses_if_possible()
            with self._transaction():
                for chunk in dict.fromkeys(chunk_keys):
                    rows = self._db.execute(
                        queries.VARIANTS, (chunk, prefix_digest, model_fingerprint, limit)
                    ).fetchall()
                    if rows:
                        found[chunk] = [self._info(row) for row in rows]
        return found

    def find_chunks(self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int) -> list[ChunkMatch]:
        """Chunks that have these fingerprints, at most `limit` of each."""
        with self._lock, self._transaction():
            return [
                ChunkMatch(number, *row)
                for number, fingerprint in enumerate(fingerprints)
                for row in self._db.execute(queries.MATCHES, (fingerprint, model_fingerprint, limit))
            ]

    def _found(self, keys: Sequence[bytes] | None) -> list[ObjectInfo]:
        rows: list[Row] = []
        if keys is None:
            everything = f"SELECT {COLUMNS} FROM objects WHERE kind = 'object' ORDER BY last_used DESC, key"  # noqa: S608
            rows = self._db.execute(everything).fetchall()
        else:
            for begin in range(0, len(keys), _VARIABLES):
                batch = keys[begin : begin + _VARIABLES]
                marks = ",".join("?" * len(batch))
                chosen = f"SELECT {COLUMNS} FROM objects WHERE key IN ({marks}) AND kind = 'object'"  # noqa: S608  marks only
                rows += self._db.execute(chosen, batch)
        return [self._info(row) for row in rows]

    def sizes(self) -> dict[bytes, int]:
        """All keys with the sizes of their objects."""
        with self._lock, closing(self._db.execute("SELECT key, stored_bytes FROM objects")) as rows:
            return dict(rows)

    def usage(self, capacity: int) -> Usage:
        """How full the store is; reserved bytes count as used."""
        with self._lock:
            (objects,) = self._db.execute("SELECT count(*) FROM objects WHERE kind = 'object'").fetchone()
            return Usage(objects, self._used + self._reserved, capacity)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            kind = CapacityError if "full" in str(error) else UnavailableError
            raise kind(f"expected an index that can be written; got {error}: check the store's disk") from None

    def _info(self, row: Row) -> ObjectInfo:
        documents = self._db.execute("SELECT document_id FROM documents WHERE key = ? ORDER BY document_id", row[:1])
        return info_of(row, tuple(document for (document,) in documents))

    def _insert_documents(self, key: bytes, documents: Sequence[str]) -> None:
        # No document holds a profile or a gate: it would go with the document.
        insert = "INSERT OR IGNORE INTO documents SELECT ?, key FROM objects WHERE key = ? AND kind = 'object'"
        self._db.executemany(insert, [(document, key) for document in documents])

    def _flush_uses_if_possible(self) -> None:
        """A full disk must not stop reads or the end of the process: there, only counts are lost."""
        if not self._uses:
            return
        try:
            with self._transaction():
                self._flush_uses()
        except (CapacityError, UnavailableError) as error:
            log.warning("counts of recent uses are lost: %s", error)

    def _flush_uses(self) -> None:
        self._db.executemany(
            "UPDATE objects SET use_count = use_count + ?, last_used = max(last_used, ?) WHERE key = ?",
            [(count, when, key) for key, (count, when) in self._uses.items()],
        )
        self._uses.clear()
