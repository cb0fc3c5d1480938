"""The index in SQLite: which objects there are, whose, how big, how used; and what must go to make room."""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

from kvquilt_cache_node.eviction import EvictionPolicy
from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store import reading, removing
from kvquilt_cache_node.store.connection import connect, transaction
from kvquilt_cache_node.store.owners import check_owner
from kvquilt_cache_node.store.rows import INSERT, fingerprint_rows, kind_of, row_of
from kvquilt_cache_node.store.uses import PendingUses
from kvquilt_cache_node.store.victims import Victims, entry_of, fill
from kvquilt_cache_node.types import Namespaces, Usage
from kvquilt_codec.catalog import ChunkMatch, GateInfo, Meta, ObjectInfo, ObjectMeta, ProfileInfo
from kvquilt_codec.errors import CapacityError


class Index:
    """Rows about objects, and the sum of their bytes. Safe from any thread; every method is one transaction.

    Args:
        path: database file, or ":memory:".
        clock: seconds since the epoch.
        policy: says which object makes room. It holds nothing yet, and is this index's own from now on.

    Raises:
        As `connect`.
    """

    def __init__(self, path: Path | str, clock: Callable[[], float], policy: EvictionPolicy) -> None:
        self._clock = clock
        self._policy = policy
        self._lock = threading.Lock()
        self._uses = PendingUses()
        self._db = connect(path)
        try:
            (self._used,) = self._db.execute("SELECT coalesce(sum(stored_bytes), 0) FROM objects").fetchone()
            fill(policy, self._db)
        except sqlite3.DatabaseError:
            self._db.close()
            raise
        self._reserved = 0

    def close(self) -> None:
        """Write pending uses and close."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            self._db.close()

    def add_documents(self, key: bytes, documents: Sequence[str], namespace: str = "") -> bool:
        """Let more documents hold an object; `False` if there is none. See `index_types.Index.add_documents`."""
        with self._lock, self._transaction():
            row = self._db.execute("SELECT namespace FROM objects WHERE key = ?", (key,)).fetchone()
            if row is None:
                return False
            check_owner(key, row[0], namespace)
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
                    self._uses.write(self._db)
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

    def use(self, keys: Sequence[bytes], documents: Sequence[str] = (), namespaces: Namespaces = None) -> list[bytes]:
        """Count a use of each object and let more documents hold it; return the keys that exist."""
        with self._lock:
            found = removing.existing(self._db, keys, namespaces)
            for key in found:
                self._uses.add(key, self._clock())
                if key in self._policy:
                    self._policy.use(key)
            if documents:
                with self._transaction():
                    self._uses.write(self._db)
                    for key in found:
                        self._insert_documents(key, documents)
            elif self._uses.many:
                self._uses.write_if_possible(self._db)
            return found

    def remove(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespace: str = ""
    ) -> tuple[dict[bytes, int], int]:
        """Drop rows by key, and by document those that no other document holds.

        See `index_types.Index.remove`.
        """
        with self._lock:
            with self._transaction():
                removed = removing.remove(self._db, keys, documents, namespace)
            return self._gone(removed.dropped), removed.kept

    def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """Drop rows of a namespace, at most `FORGET_BATCH`."""
        with self._lock:
            with self._transaction():
                removed = removing.remove_namespace(self._db, namespace)
            return self._gone(removed.dropped)

    @property
    def busy(self) -> bool:
        """Whether a thread is at work here now: then a call waits for it, as long as a commit takes."""
        return self._lock.locked()

    def stored(self, key: bytes) -> Stored | None:
        """When something was stored, and how big it is."""
        with self._lock:
            row = self._db.execute("SELECT created, stored_bytes FROM objects WHERE key = ?", (key,)).fetchone()
            return None if row is None else Stored(*row)

    def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """Drop the row of a key whose bytes are gone, unless it has been stored again since `stored_at`."""
        same = "SELECT 1 FROM objects WHERE key = ? AND created = ?"
        with self._lock:
            with self._transaction():
                there = self._db.execute(same, (key, stored_at)).fetchone()
                gone = removing.drop(self._db, key) if there else None
            if gone is not None:
                self._gone({key: gone})
            return gone is not None

    def profiles(self) -> list[ProfileInfo]:
        """All profiles, the most recently used first."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            return reading.profiles(self._db)

    def gates(self, model_fingerprint: str, profile_digest: str) -> list[GateInfo]:
        """The gates of a model and a codec profile, the one that was stored last first."""
        with self._lock:
            return reading.gates(self._db, model_fingerprint, profile_digest)

    def find(self, keys: Sequence[bytes] | None = None, namespaces: Namespaces = None) -> list[ObjectInfo]:
        """What is known of the objects among `keys`, or of all objects, the most recently used first."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            with self._transaction():
                if keys is None:
                    return reading.everything(self._db, namespaces)
                return reading.objects(self._db, keys, namespaces)

    def page(self, after: bytes, limit: int) -> list[ObjectInfo]:
        """The first objects with greater keys than this one, in the order of their keys."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            with self._transaction():
                return reading.page(self._db, after, limit)

    def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        limit: int,
        namespaces: Namespaces = None,
    ) -> dict[bytes, list[ObjectInfo]]:
        """Objects by chunk key, at most `limit` of each, the most recently used first."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            with self._transaction():
                return reading.variants(self._db, chunk_keys, model_fingerprint, prefix_digest, limit, namespaces)

    def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int, namespaces: Namespaces = None
    ) -> list[ChunkMatch]:
        """Chunks that have these fingerprints, at most `limit` of each."""
        with self._lock, self._transaction():
            return reading.matches(self._db, fingerprints, model_fingerprint, limit, namespaces)

    def sizes(self) -> dict[bytes, int]:
        """All keys with the sizes of their objects."""
        with self._lock, closing(self._db.execute("SELECT key, stored_bytes FROM objects")) as rows:
            return dict(rows)

    def usage(self, capacity: int) -> Usage:
        """How full the store is; reserved bytes count as used."""
        with self._lock:
            (objects,) = self._db.execute("SELECT count(*) FROM objects WHERE kind = 'object'").fetchone()
            return Usage(objects, self._used + self._reserved, capacity)

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._db)

    def _gone(self, dropped: Mapping[bytes, removing.Dropped]) -> dict[bytes, int]:
        """What was in the database is there no more; memory follows. Returns sizes."""
        for key, gone in dropped.items():
            self._uses.drop(key)
            self._policy.remove(key)
            self._used -= gone.size
        return {key: gone.size for key, gone in dropped.items()}

    def _insert_documents(self, key: bytes, documents: Sequence[str]) -> None:
        # No document holds a profile or a gate: it would go with the document.
        those = "SELECT namespace, ?, key FROM objects WHERE key = ? AND kind = 'object'"
        self._db.executemany(f"INSERT OR IGNORE INTO documents {those}", [(document, key) for document in documents])
