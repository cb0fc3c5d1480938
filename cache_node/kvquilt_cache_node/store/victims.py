"""Who goes to make room: objects as the policy says; profiles and gates when nothing stored needs them."""

import sqlite3
from collections import Counter
from dataclasses import dataclass

from kvquilt_cache_node.eviction import Entry
from kvquilt_cache_node.eviction.quotas import Quotas, Standing
from kvquilt_cache_node.store import queries, stays
from kvquilt_cache_node.store.departures import Departures
from kvquilt_cache_node.store.limits import refuse_pinned, refuse_share
from kvquilt_cache_node.store.removing import Dropped, drop
from kvquilt_cache_node.store.rooms import Room
from kvquilt_cache_node.store.tally import Tally


def entry_of(size: int, compute_seconds: float, use_count: int) -> Entry:
    """What a policy is told of an object. How often its tokens were computed again is not known here."""
    return Entry(max(size, 1), compute_seconds, use_count)


def fill(room: Room, db: sqlite3.Connection) -> None:
    """Tell new policies of the objects that there are, in the order of their last use."""
    for key, namespace, *known in db.execute(queries.ENTRIES):
        room.insert(key, entry_of(*known), namespace)


@dataclass(frozen=True, slots=True)
class Need:
    """What room is made for: so many bytes of a namespace; of nobody's, if its name is empty."""

    namespace: str
    size: int
    capacity: int


class Victims:
    """Rows that are dropped in a transaction that is still open.

    Args:
        db: where they are.
        room: says which objects.
        tally: as before the transaction.
        departures: told why rows go.
        reading: keys of objects that go only if nothing else of theirs is left.

    Attributes:
        dropped: by key.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        room: Room,
        tally: Tally,
        departures: Departures,
        reading: frozenset[bytes] = frozenset(),
    ) -> None:
        self._db = db
        self._room = room
        self._tally = tally
        self._departures = departures
        self._reading = reading
        self._spared: dict[bytes, str] = {}
        self._freed: Counter[str] = Counter()
        self._freed_bytes = 0
        self._objects: dict[bytes, tuple[Entry, str]] = {}
        self.dropped: dict[bytes, Dropped] = {}

    def expire(self, key: bytes) -> None:
        """Drop the row of what has expired, if it is there."""
        row = self._db.execute(queries.ENTRY, (key,)).fetchone()
        if row is not None:
            namespace, *known = row
            self._objects[key] = (entry_of(*known), namespace)
            self._room.remove(key)
            with self._departures.because("expired"):
                self._drop(key)

    def make(self, need: Need) -> None:
        """Drop rows until there is room, and no more rows than that takes.

        What has expired goes first, and what is being read only when a policy has nothing else. A profile that stored
        objects are coded with, and its gates, go after the last of these objects; one that nothing needs goes when no
        object has been unused for longer.

        Raises:
            CapacityError: what could go is others', who are at their floors; or what is left is pinned, or needed by
                what is.
        """
        quotas, own = self._room.quotas, need.namespace
        cap = quotas.of(own).cap if quotas is not None and own else None
        while cap is not None and self._held(own) + need.size > cap:
            if not self._drop_expired():
                self._drop_object(need, own)
        while self._tally.total - self._freed_bytes + need.size > need.capacity:
            if self._drop_expired():
                continue
            idle = self._db.execute(queries.IDLE).fetchone()
            oldest = self._db.execute(queries.OLDEST_USE).fetchone()
            if idle is not None and (oldest is None or idle[1] < oldest[0]):
                self._drop(idle[0])
            else:
                self._drop_object(need, idle=idle and idle[0])
        for key, namespace in list(self._spared.items()):
            _, *known = self._db.execute(queries.ENTRY, (key,)).fetchone()
            del self._spared[key]
            self._room.insert(key, entry_of(*known), namespace)

    def _drop_expired(self) -> bool:
        over = stays.expired(self._db, 1)
        for key in over:
            self.expire(key)
        return bool(over)

    def put_back(self) -> None:
        """Undo what policies were told, since the transaction failed."""
        for key, (entry, namespace) in self._objects.items():
            self._room.insert(key, entry, namespace)
        for key, namespace in self._spared.items():
            self._room.insert(key, Entry(1), namespace)

    def _drop_object(self, need: Need, owner: str | None = None, idle: bytes | None = None) -> None:
        evicted = self._evicted(need, owner)
        if evicted is None:
            if idle is None:
                refuse_pinned(need.size)
            self._drop(idle)
            return
        key, namespace = evicted
        self._objects[key] = (Entry(1), namespace)  # until its row tells more: what follows may fail
        gone = self._drop(key)
        self._objects[key] = (entry_of(gone.size, gone.compute_seconds, gone.use_count), gone.namespace)

    def _evicted(self, need: Need, owner: str | None) -> tuple[bytes, str] | None:
        """What a policy chooses; `None` if the ones that are asked have nothing that may go."""
        chosen = ""

        def victim(quotas: Quotas) -> str | None:
            nonlocal chosen
            chosen = (self._victim(quotas, need) if owner is None else owner) or ""
            return chosen or None

        while True:
            try:
                evicted = self._room.evict(victim)
            except KeyError:
                key = next((key for key, namespace in self._spared.items() if namespace == chosen), None)
                return None if key is None else (key, self._spared.pop(key))
            if evicted is None:
                refuse_share(need.size, need.namespace)
            if evicted[0] not in self._reading:
                return evicted
            self._spared[evicted[0]] = evicted[1]

    def _drop(self, key: bytes) -> Dropped:
        gone = drop(self._db, key)
        if gone is None:
            raise LookupError(f"expected a row of {key.hex()}; policy and index differ")
        self.dropped[key] = gone
        self._freed[gone.namespace] += gone.size
        self._freed_bytes += gone.size
        return gone

    def _held(self, namespace: str) -> int:
        return self._tally.used[namespace] + self._tally.reserved[namespace] - self._freed[namespace]

    def _victim(self, quotas: Quotas, need: Need) -> str | None:
        standings = {}
        for name in {*self._tally.namespaces(), need.namespace} - {""}:
            largest = self._db.execute(queries.LARGEST, (name,)).fetchone()
            used = self._held(name) + need.size * (name == need.namespace)
            standings[name] = Standing(used, 0 if largest is None else largest[0])
        return quotas.victim(standings, need.namespace)
