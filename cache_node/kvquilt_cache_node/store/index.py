"""The index in SQLite: which objects there are, whose, how big, how used; and what must go to make room."""

from collections.abc import Sequence
from contextlib import closing, suppress

from kvquilt_cache_node.index_types import Lease, Stored
from kvquilt_cache_node.store import reading, removing, stays
from kvquilt_cache_node.store.limits import refuse_quota, refuse_share, refuse_size
from kvquilt_cache_node.store.owners import check_owner
from kvquilt_cache_node.store.rows import INSERT, fingerprint_rows, kind_of, namespace_of, row_of
from kvquilt_cache_node.store.staying import StayingIndex
from kvquilt_cache_node.store.victims import Need, Victims, entry_of
from kvquilt_cache_node.types import Namespaces, NamespaceUsage, Usage
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, Meta, ObjectInfo, ObjectMeta, ProfileInfo
from kvquilt_codec.errors import CapacityError, UnavailableError
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace, Trace


class Index(StayingIndex):
    """Rows about objects, and the sum of their bytes. Safe from any thread; every method is one transaction."""

    def close(self) -> None:
        """Write pending uses and close."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            if self._deleted or stays.are_there(self._db):
                with suppress(CapacityError, UnavailableError), self._dropping(""):
                    stays.keep_age(self._db, self._age)
            self._db.close()

    def add_documents(self, key: bytes, documents: Sequence[str], namespace: str = "") -> bool:
        """Let more documents hold an object; `False` if there is none. See `index_types.Index.add_documents`."""
        with self._lock:
            self._write_renewals()
            with self._transaction():
                row = self._db.execute("SELECT namespace FROM alive WHERE key = ?", (key,)).fetchone()
                if row is None:
                    return False
                check_owner(key, row[0], namespace)
                self._insert_documents(key, documents)
                return True

    def reserve(self, key: bytes, size: int, capacity: int, namespace: str = "") -> list[bytes]:
        """Set `size` bytes apart for a write, and drop the rows of the returned keys, which make room for it.

        Raises:
            CapacityError: the room cannot be made. See `index_types.Index.reserve`.
        """
        with self._lock:
            self._end_pins()
            self._check(size, capacity, namespace)
            reading = self._readers.now(self._age())
            victims = Victims(self._db, self._room, self._tally, self._departures, reading)
            try:
                with self._dropping("evicted"):
                    self._uses.write(self._db)
                    victims.expire(key)
                    victims.make(Need(namespace, size, capacity))
            except BaseException:
                victims.put_back()  # as the rows and the sums: a full disk must change nothing
                raise
            for victim, gone in victims.dropped.items():
                self._readers.drop(victim)
                self._tally.gone(gone.namespace, gone.size)
            self._tally.reserve(namespace, size)
            return list(victims.dropped)

    def _check(self, size: int, capacity: int, namespace: str) -> None:
        reserved, quotas = self._tally.total_reserved, self._room.quotas
        taken = reserved + stays.pinned_bytes(self._db)
        if size + taken > capacity:
            refuse_size(size, taken, capacity)
        if quotas is None:
            return
        cap = quotas.of(namespace).cap if namespace else None
        own = self._tally.reserved[namespace]
        if cap is not None and size + own > cap:
            refuse_quota(size, own, namespace, cap)
        if size + reserved + quotas.protected(self._tally.used, namespace) > capacity:
            refuse_share(size, namespace)

    def release(self, size: int, namespace: str = "") -> None:
        """Give a reservation back."""
        with self._lock:
            self._tally.release(namespace, size)

    def commit(self, key: bytes, size: int, meta: Meta, *, adopted: bool = False) -> None:
        """Enter what is written: an object, a profile, a gate or audits. See `index_types.Index.commit`."""
        now = self._clock()
        with self._lock:
            with self._transaction():
                self._db.execute(INSERT, (kind_of(meta), *row_of(key, meta, size, now)))
                if isinstance(meta, ObjectMeta):
                    stays.enter(self._db, key, meta.lifetime, self._age, adopted=adopted)
                    self._insert_documents(key, meta.document_ids)
                    known = "INSERT OR IGNORE INTO fingerprints VALUES (?,?,?,?,?)"
                    self._db.executemany(known, fingerprint_rows(meta))
            if isinstance(meta, ObjectMeta):
                self._room.insert(key, entry_of(size, meta.compute_seconds, 0), meta.namespace)
            self._tally.stored(namespace_of(meta), size)
            self._tally.release(namespace_of(meta), size)
            self._deleted.discard(key)

    def use(
        self,
        keys: Sequence[bytes],
        documents: Sequence[str] = (),
        namespaces: Namespaces = None,
        lease: Lease | None = None,
    ) -> list[bytes]:
        """Count a use of each object and let more documents hold it. See `index_types.Index.use`."""
        with self._lock:
            self._write_renewals()
            found = removing.existing(self._db, keys, namespaces)
            for key in found:
                self._uses.add(key, self._clock(), self._age())
                if lease is not None:
                    (size,) = self._db.execute("SELECT stored_bytes FROM objects WHERE key = ?", (key,)).fetchone()
                    self._readers.begin(key, size, lease, self._age())
                self._room.use(key)
            if documents:
                with self._transaction():
                    self._uses.write(self._db)
                    for key in found:
                        self._insert_documents(key, documents)
            elif self._uses.many:
                self._uses.write_if_possible(self._db)
            return found

    def remove(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespace: str = "", reason: str = "forgotten"
    ) -> tuple[dict[bytes, int], int]:
        """Drop rows by key, and by document those that no other document holds.

        See `index_types.Index.remove`.
        """
        with self._lock:
            with self._dropping(reason):
                removed = removing.remove(self._db, keys, documents, namespace)
            return self._gone(removed.dropped), removed.kept

    def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """Drop rows of a namespace, at most `FORGET_BATCH`, and what is remembered of those that left."""
        with self._lock:
            with self._dropping(""):
                self._departures.forget(namespace)
                removed = removing.remove_namespace(self._db, namespace)
            return self._gone(removed.dropped)

    @property
    def busy(self) -> bool:
        """Whether a thread is at work here now: then a call waits for it, as long as a commit takes."""
        return self._lock.locked()

    def stored(self, key: bytes) -> Stored | None:
        """When something was stored, and how big it is."""
        with self._lock:
            self._write_renewals()
            row = self._db.execute("SELECT created, stored_bytes FROM alive WHERE key = ?", (key,)).fetchone()
            return None if row is None else Stored(*row)

    def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """Drop the row of a key whose bytes are gone, unless it has been stored again since `stored_at`."""
        same = "SELECT 1 FROM objects WHERE key = ? AND created = ?"
        with self._lock:
            with self._dropping("lost"):
                there = self._db.execute(same, (key, stored_at)).fetchone()
                gone = removing.drop(self._db, key) if there else None
                if gone is not None:
                    stays.deleted(self._db, [key])
            if gone is not None:
                self._gone({key: gone})
            return gone is not None

    def profiles(self) -> list[ProfileInfo]:
        """All profiles, the most recently used first."""
        with self._lock:
            self._uses.write_if_possible(self._db)
            return reading.profiles(self._db)

    def files(self, like: FileMeta) -> list[FileInfo]:
        """The gates, or the audits, with this description, the one that was stored last first."""
        with self._lock:
            return reading.files(self._db, like)

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
        with self._lock:
            self._write_renewals()
            with self._transaction():
                return reading.matches(self._db, fingerprints, model_fingerprint, limit, namespaces)

    def trace(self, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces = None) -> Trace:
        """What there is of chunks, whatever preceded them, and why objects of them left."""
        with self._lock:
            self._write_renewals()
            objects = reading.texts(self._db, [place.chunk_key for place in places], limit, namespaces)
            asked = list({PUBLIC, *reading.named(self._db, None)}) if namespaces is None else namespaces
            departed = self._departures.of(places, asked)
            return Trace(objects, departed, self._departures.models())

    def sizes(self) -> dict[bytes, int]:
        """All keys with the sizes of their objects."""
        with self._lock, closing(self._db.execute("SELECT key, stored_bytes FROM objects")) as rows:
            return dict(rows)

    def usage(self, capacity: int) -> Usage:
        """How full the store is; reserved bytes count as used."""
        with self._lock:
            pending = stays.count_gone(self._db) - len(self._deleted)
            pinned = stays.pinned_bytes(self._db)
            return Usage(self._tally.objects.total(), self._tally.total, capacity, pinned, pending)

    def usage_by_namespace(self) -> dict[str, NamespaceUsage]:
        """Objects and bytes of each namespace that has any."""
        with self._lock:
            return {name: NamespaceUsage(count, self._tally.used[name]) for name, count in self._tally.objects.items()}

    def _insert_documents(self, key: bytes, documents: Sequence[str]) -> None:
        # No document holds a profile, a gate or audits: it would go with the document.
        those = "SELECT namespace, ?, key FROM objects WHERE key = ? AND kind = 'object'"
        self._db.executemany(f"INSERT OR IGNORE INTO documents {those}", [(document, key) for document in documents])
