"""How long objects stay in the index in SQLite: what the index has in memory of it, beside the tables of `stays`."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kvquilt_cache_node.eviction import EvictionPolicy
from kvquilt_cache_node.index_types import Pin
from kvquilt_cache_node.store import queries, removing, stays
from kvquilt_cache_node.store.aging import Age, Clock
from kvquilt_cache_node.store.connection import connect, transaction
from kvquilt_cache_node.store.departures import Departures
from kvquilt_cache_node.store.readers import Readers
from kvquilt_cache_node.store.rooms import OneRoom, Room, Shares
from kvquilt_cache_node.store.tally import Tally
from kvquilt_cache_node.store.uses import PendingUses
from kvquilt_cache_node.store.victims import entry_of, fill
from kvquilt_cache_node.types import DEPARTURES_KEPT


class StayingIndex:
    """The database, what of it is in memory, and what makes objects stay or go by themselves.

    Args:
        path: database file, or ":memory:".
        clock: seconds since the epoch.
        policy: says which object makes room: one for all namespaces, or one for each by its share. It holds nothing
            yet, and is this index's own from now on.
        departures: how many objects that left are remembered.
        monotonic: seconds since any moment.

    Raises:
        As `connect`.
    """

    def __init__(
        self,
        path: Path | str,
        clock: Clock,
        policy: EvictionPolicy | Shares,
        departures: int = DEPARTURES_KEPT,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._clock = clock
        self._room: Room = policy if isinstance(policy, Shares) else OneRoom(policy)
        self._tally = Tally()
        self._lock = threading.Lock()
        self._uses = PendingUses()
        self._readers = Readers()
        self._deleted: set[bytes] = set()
        self._looked_at = b""
        self.expired = 0
        self._db = connect(path)
        try:
            self._age = Age(clock, monotonic, stays.known_age(self._db))
            stays.tell_age(self._db, self._age)
            self._tally.fill(self._db.execute(queries.SUMS))
            fill(self._room, self._db)
            self._departures = Departures(self._db, departures, clock)
        except sqlite3.DatabaseError:
            self._db.close()
            raise

    def has_row(self, key: bytes) -> bool:
        """Whether there is something of this key, expired or not."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone() is not None

    def deleted(self, keys: Sequence[bytes]) -> None:
        """The bytes of these keys are gone. Written with what comes next: if that is lost, they are deleted again."""
        with self._lock:
            self._deleted.update(key for key in keys if stays.is_gone(self._db, key))

    def is_gone(self, key: bytes) -> bool:
        """Whether the bytes of a key are to be deleted."""
        with self._lock:
            return key not in self._deleted and stays.is_gone(self._db, key)

    def overdue(self, limit: int) -> list[bytes]:
        """See `types.Index.overdue`. What could not be deleted comes again after all others have come."""
        with self._lock:
            if not self._deleted and not stays.are_there(self._db):
                return []
            self._end_pins()
            with self._dropping("expired"):
                self._uses.write(self._db)
                stays.keep_age(self._db, self._age)
                dropped = {key: removing.drop(self._db, key) for key in stays.expired(self._db, limit)}
                keys = stays.gone(self._db, self._looked_at, limit)
            left = self._gone({key: gone for key, gone in dropped.items() if gone is not None})
            self.expired += len(left)
            self._looked_at = keys[-1] if len(keys) == limit else b""
            return keys

    def pin(self, keys: Sequence[bytes], documents: Sequence[str], pin: Pin, namespace: str = "") -> list[bytes]:
        """See `types.Index.pin`."""
        with self._lock:
            self._write_renewals()
            self._end_pins()
            until = stays.FOREVER if pin.seconds is None else self._age() + pin.seconds
            with self._transaction():
                of = (keys, documents, namespace)
                pinned = stays.pin(self._db, *of, pin.most_bytes, until, keeps=not pin.expiring)
            for key in pinned:
                self._room.remove(key)
            return pinned

    def unpin(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "") -> list[bytes]:
        """See `types.Index.unpin`."""
        with self._lock:
            with self._transaction():
                unpinned = stays.unpin_named(self._db, keys, documents, namespace)
            self._evictable(unpinned)
            return unpinned

    def end_read(self, keys: Sequence[bytes]) -> None:
        """See `types.Index.end_read`."""
        self._readers.end(keys)

    def _end_pins(self) -> None:
        ended = stays.pins_ended(self._db, self._age())
        if ended:
            with self._transaction():
                stays.unpin(self._db, ended)
            self._evictable(ended)

    def _evictable(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            namespace, *known = self._db.execute(queries.ENTRY, (key,)).fetchone()
            self._room.insert(key, entry_of(*known), namespace)

    def _write_renewals(self) -> None:
        """What seems to have expired may have been used meanwhile."""
        if not self._uses.none and stays.expired(self._db, 1):
            self._uses.write_if_possible(self._db)

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._db)

    @contextmanager
    def _dropping(self, reason: str) -> Iterator[None]:
        """A transaction that may drop rows: what was deleted is written first, or it would hide a later deletion.

        Args:
            reason: why they go; see `Departures.because`.
        """
        with self._transaction(), self._departures.because(reason):
            stays.deleted(self._db, self._deleted)
            yield
        self._deleted.clear()

    def _gone(self, dropped: Mapping[bytes, removing.Dropped]) -> dict[bytes, int]:
        """What was in the database is there no more; memory follows. Returns sizes."""
        for key, gone in dropped.items():
            self._uses.drop(key)
            self._readers.drop(key)
            self._room.remove(key)
            self._tally.gone(gone.namespace, gone.size)
        return {key: gone.size for key, gone in dropped.items()}
