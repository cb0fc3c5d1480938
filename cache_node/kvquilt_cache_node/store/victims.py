"""Who goes to make room: objects as the policy says; profiles and gates when nothing stored needs them."""

import sqlite3
from dataclasses import dataclass, field
from typing import cast

from kvquilt_cache_node.eviction import Entry, EvictionPolicy
from kvquilt_cache_node.store import queries
from kvquilt_cache_node.store.removing import Dropped, drop


def entry_of(size: int, compute_seconds: float, use_count: int) -> Entry:
    """What a policy is told of an object. How often its tokens were computed again is not known here."""
    return Entry(max(size, 1), compute_seconds, use_count)


def fill(policy: EvictionPolicy, db: sqlite3.Connection) -> None:
    """Tell a new policy of the objects that there are, in the order of their last use."""
    for key, *known in db.execute(queries.ENTRIES):
        policy.insert(key, entry_of(*known))


@dataclass(slots=True)
class Victims:
    """Rows that were dropped in a transaction that is still open.

    Attributes:
        sizes: bytes by key.
        objects: those among them that a policy chose.
    """

    sizes: dict[bytes, int] = field(default_factory=dict)
    objects: dict[bytes, Entry] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that go."""
        return sum(self.sizes.values())

    def drop(self, db: sqlite3.Connection, policy: EvictionPolicy, nbytes: int) -> None:
        """Drop rows until at least `nbytes` bytes go, and no more rows than that takes.

        A profile that stored objects are coded with, and its gates, go after the last of these objects; one that
        nothing needs goes when no object has been unused for longer.
        """
        freed = 0
        while freed < nbytes:
            idle = db.execute(queries.IDLE).fetchone()
            oldest = db.execute(queries.OLDEST_USE).fetchone()
            if idle is not None and (oldest is None or idle[1] < oldest[0]):
                key = idle[0]
            else:
                key = cast(bytes, policy.evict())
                self.objects[key] = Entry(1)  # until its row tells more: what follows may fail
            gone = cast(Dropped, drop(db, key))
            if key in self.objects:
                self.objects[key] = entry_of(gone.size, gone.compute_seconds, gone.use_count)
            self.sizes[key] = gone.size
            freed += gone.size

    def put_back(self, policy: EvictionPolicy) -> None:
        """Undo what the policy was told, since the transaction failed."""
        for key, entry in self.objects.items():
            policy.insert(key, entry)
