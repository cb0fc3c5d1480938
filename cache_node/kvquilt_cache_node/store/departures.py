"""What the index in SQLite remembers of objects that left: why, and when. Nothing that tells what they were.

An entry is named by a digest of chunk key and prefix digest. Chunk keys are HMACs under a namespace's secret, so that
whoever has neither the secret nor the text learns nothing from a name. Of what was forgotten not even the namespace is
kept.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.traces import ChunkPlace, Departed

SCHEMA = """
CREATE TABLE IF NOT EXISTS departures (
  name BLOB PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL, namespace TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS departures_by_time ON departures (at);
CREATE TABLE IF NOT EXISTS models (fingerprint TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
_TRIGGERS = """
CREATE TEMP TRIGGER departing AFTER DELETE ON main.objects WHEN OLD.kind = 'object' AND departure_reason() <> ''
  BEGIN
    INSERT OR REPLACE INTO departures VALUES (
      departure_name(OLD.chunk_key, OLD.prefix_digest), departure_reason(), departure_time(),
      CASE departure_reason() WHEN 'forgotten' THEN '' ELSE OLD.namespace END);
  END;
CREATE TEMP TRIGGER arriving AFTER INSERT ON main.objects WHEN NEW.kind = 'object'
  BEGIN
    INSERT OR REPLACE INTO models VALUES (NEW.model_fingerprint, NEW.created);
    DELETE FROM models WHERE fingerprint NOT IN (
      SELECT fingerprint FROM models ORDER BY at DESC, fingerprint LIMIT 64);
  END;
"""
"""Of this connection only. Whatever removes a row must have said why, and it is noted in the same transaction."""
_TRIM = """
DELETE FROM departures WHERE name IN (
  SELECT name FROM departures ORDER BY at, name LIMIT max(0, (SELECT count(*) FROM departures) - ?))
"""


def departure_name(place: ChunkPlace) -> bytes:
    """What an entry is called: 20 bytes; the index in Redis calls it the same."""
    return _name(place.chunk_key, place.prefix_digest)


def may_know(whose: str, namespaces: Namespaces) -> bool:
    """Whether namespaces may know of a departure: nobody's, or one of their own."""
    return namespaces is None or whose in ("", *namespaces)


def _name(chunk_key: bytes, prefix_digest: bytes) -> bytes:
    return hashlib.sha1(chunk_key + prefix_digest, usedforsecurity=False).digest()


class Departures:
    """The latest departures from the table `objects` of a database. Use it under the index's lock.

    Args:
        db: has the tables of `SCHEMA`.
        kept: most entries; 0 for none.
        clock: seconds since the epoch.
    """

    def __init__(self, db: sqlite3.Connection, kept: int, clock: Callable[[], float]) -> None:
        self._db = db
        self._kept = kept
        self._reason: str | None = None
        self._added = kept  # as if full: the last process may have been allowed more
        db.create_function("departure_name", 2, _name)
        db.create_function("departure_reason", 0, self._said)
        db.create_function("departure_time", 0, clock)
        db.executescript(_TRIGGERS)

    @contextmanager
    def because(self, reason: str) -> Iterator[None]:
        """Rows that are deleted within, in the open transaction, leave for this reason; for others outside of it.

        Args:
            reason: one of `DEPARTURES`, or empty to leave no trace.
        """
        before, outer = self._db.total_changes, self._reason
        self._reason = reason if self._kept else ""
        try:
            yield
        finally:
            self._reason = outer
        self._added += self._db.total_changes - before
        if self._added > self._kept:
            # A sixteenth at once: to count them at every removal would cost more than to keep them.
            left = self._kept - self._kept // 16
            self._db.execute(_TRIM, (left,))
            self._added = left

    def _said(self) -> str:
        if self._reason is None:
            raise ValueError("expected a reason for the removal of an object; none was said: a mistake in our own code")
        return self._reason

    def of(self, places: Sequence[ChunkPlace], namespaces: Namespaces) -> dict[ChunkPlace, Departed]:
        """The latest departure from each place, as far as there is one that these namespaces may know of."""
        found = {}
        for place in places:
            chosen = "SELECT reason, at, namespace FROM departures WHERE name = ?"
            row = self._db.execute(chosen, (departure_name(place),)).fetchone()
            if row is not None and may_know(row[2], namespaces):
                found[place] = Departed(*row[:2])
        return found

    def forget(self, namespace: str) -> None:
        """Remember nothing of a namespace any more; of what was forgotten nobody knows whose it was."""
        self._db.execute("DELETE FROM departures WHERE namespace = ?", (namespace,))

    def models(self) -> frozenset[str]:
        """Fingerprints of the models that objects were stored of last."""
        return frozenset(fingerprint for (fingerprint,) in self._db.execute("SELECT fingerprint FROM models"))
