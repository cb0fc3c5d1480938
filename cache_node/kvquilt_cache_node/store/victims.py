"""Who goes to make room: objects as the policy says; profiles and gates when nothing stored needs them."""

import sqlite3
from collections import Counter
from dataclasses import dataclass

from kvquilt_cache_node.eviction import Entry
from kvquilt_cache_node.eviction.quotas import Quotas, Standing
from kvquilt_cache_node.store import queries
from kvquilt_cache_node.store.limits import refuse_share
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

    Attributes:
        dropped: by key.
    """

    def __init__(self, db: sqlite3.Connection, room: Room, tally: Tally) -> None:
        self._db = db
        self._room = room
        self._tally = tally
        self._freed: Counter[str] = Counter()
        self._freed_bytes = 0
        self._objects: dict[bytes, tuple[Entry, str]] = {}
        self.dropped: dict[bytes, Dropped] = {}

    def make(self, need: Need) -> None:
        """Drop rows until there is room, and no more rows than that takes.

        A profile that stored objects are coded with, and its gates, go after the last of these objects; one that
        nothing needs goes when no object has been unused for longer.

        Raises:
            CapacityError: what could go is others', who are at their floors.
        """
        quotas, own = self._room.quotas, need.namespace
        cap = quotas.of(own).cap if quotas is not None and own else None
        while cap is not None and self._held(own) + need.size > cap:
            self._drop_object(need, own)
        while self._tally.total - self._freed_bytes + need.size > need.capacity:
            idle = self._db.execute(queries.IDLE).fetchone()
            oldest = self._db.execute(queries.OLDEST_USE).fetchone()
            if idle is not None and (oldest is None or idle[1] < oldest[0]):
                self._drop(idle[0])
            else:
                self._drop_object(need)

    def put_back(self) -> None:
        """Undo what policies were told, since the transaction failed."""
        for key, (entry, namespace) in self._objects.items():
            self._room.insert(key, entry, namespace)

    def _drop_object(self, need: Need, owner: str | None = None) -> None:
        evicted = self._room.evict(lambda quotas: self._victim(quotas, need) if owner is None else owner)
        if evicted is None:
            refuse_share(need.size, need.namespace)
        key, namespace = evicted
        self._objects[key] = (Entry(1), namespace)  # until its row tells more: what follows may fail
        gone = self._drop(key)
        self._objects[key] = (entry_of(gone.size, gone.compute_seconds, gone.use_count), gone.namespace)

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
