"""Uses of objects that the index in SQLite has not written yet."""

import logging
import sqlite3

from kvquilt_cache_node.store import stays
from kvquilt_cache_node.store.connection import transaction
from kvquilt_codec.errors import CapacityError, UnavailableError

log = logging.getLogger(__name__)

_MOST = 256


class PendingUses:
    """Counts that are kept in memory and written in batches: losing a count with the process costs nothing."""

    def __init__(self) -> None:
        self._uses: dict[bytes, tuple[int, float, float]] = {}

    @property
    def many(self) -> bool:
        """Whether it is time to write them."""
        return len(self._uses) >= _MOST

    @property
    def none(self) -> bool:
        """Whether there are none."""
        return not self._uses

    def add(self, key: bytes, when: float, age: float) -> None:
        """Count a use, at a time and an `Age`."""
        count, *_ = self._uses.get(key, (0, 0.0, 0.0))
        self._uses[key] = (count + 1, when, age)

    def drop(self, key: bytes) -> None:
        """Forget those of an object that goes."""
        self._uses.pop(key, None)

    def write(self, db: sqlite3.Connection) -> None:
        """Write all, in a transaction that is open."""
        db.executemany(
            "UPDATE objects SET use_count = use_count + ?, last_used = max(last_used, ?) WHERE key = ?",
            [(count, when, key) for key, (count, when, _) in self._uses.items()],
        )
        stays.renew(db, [(key, age) for key, (_, _, age) in self._uses.items()])
        self._uses.clear()

    def write_if_possible(self, db: sqlite3.Connection) -> None:
        """Write all in a transaction. A full disk stops neither reads nor the end of the process: counts are lost."""
        if not self._uses:
            return
        try:
            with transaction(db):
                self.write(db)
        except (CapacityError, UnavailableError) as error:
            log.warning("counts of recent uses are lost: %s", error)
