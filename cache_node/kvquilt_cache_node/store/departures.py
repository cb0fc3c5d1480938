"""What the index in SQLite remembers of objects that left: why, and when. Nothing that tells what they were.

An entry is named by a digest of chunk key, prefix digest and namespace. Chunk keys are HMACs under a namespace's
secret, so that whoever has neither the secret nor the text learns nothing from a name. Of what was forgotten not even
the namespace is kept. Whoever asks, asks under the names of its own namespaces: that something of another one left is
the same miss, in the same time, as that nothing did.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kvquilt_cache_node.store.queries import among
from kvquilt_codec.traces import ChunkPlace, Departed

SCHEMA = """
CREATE TABLE IF NOT EXISTS departures (
  name BLOB PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL, namespace TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS departures_by_time ON departures (at);
CREATE TABLE IF NOT EXISTS models (fingerprint TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
_TRIGGERS = """
CREATE TEMP TRIGGER departing BEFORE DELETE ON main.objects WHEN OLD.kind = 'object' AND departure_reason() <> ''
  BEGIN
    INSERT INTO departures VALUES (
      departure_name(OLD.chunk_key, OLD.prefix_digest, OLD.namespace), departure_reason(),
      CASE departure_reason() WHEN 'expired' THEN coalesce(
        (SELECT min(departure_time(), expires - age_now() + wall_now()) FROM stays WHERE stays.key = OLD.key),
        departure_time()) ELSE departure_time() END,
      CASE departure_reason() WHEN 'forgotten' THEN '' ELSE OLD.namespace END)
    ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, at = excluded.at, namespace = excluded.namespace
      WHERE departure_reason() <> 'expired' OR excluded.at >= departures.at;
  END;
CREATE TEMP TRIGGER arriving AFTER INSERT ON main.objects WHEN NEW.kind = 'object'
  BEGIN
    INSERT OR REPLACE INTO models VALUES (NEW.model_fingerprint, NEW.created);
    DELETE FROM models WHERE fingerprint NOT IN (
      SELECT fingerprint FROM models ORDER BY at DESC, fingerprint LIMIT 64);
  END;
"""
"""Of this connection only. Whatever removes a row must have said why, and it is noted in the same transaction. What
expired left when it did, and not when its row was dropped; what left later is not forgotten for it."""
_TRIM = """
DELETE FROM departures WHERE name IN (
  SELECT name FROM departures ORDER BY at, name LIMIT max(0, (SELECT count(*) FROM departures) - ?))
"""


def _expired(count: int) -> str:
    """When objects of a place expired whose rows are there still. Variables: namespaces, chunk key, prefix digest."""
    return (
        "SELECT max(expires) - age_now() + wall_now() FROM objects INDEXED BY objects_by_chunk "  # noqa: S608
        f"JOIN stays USING (key) WHERE {among(count)} AND chunk_key = ? AND prefix_digest = ? AND kind = 'object' "
        "AND expires <= age_now()"
    )


def departure_name(chunk_key: bytes, prefix_digest: bytes, namespace: str) -> bytes:
    """What an entry is called: 20 bytes; the index in Redis calls it the same."""
    return hashlib.sha1(chunk_key + prefix_digest + namespace.encode(), usedforsecurity=False).digest()


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
        db.create_function("departure_name", 3, departure_name)
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

    def of(self, places: Sequence[ChunkPlace], namespaces: Sequence[str]) -> dict[ChunkPlace, Departed]:
        """The latest departure of these namespaces from each place, as far as there is one.

        What has expired has left, whether or not its row is there still.
        """
        expired = _expired(len(namespaces))
        latest = (
            f"SELECT reason, at FROM departures WHERE name IN ({','.join('?' * len(namespaces))}) "  # noqa: S608
            "ORDER BY at DESC LIMIT 1"
        )
        found = {}
        for place in places:
            key, prefix = place.chunk_key, place.prefix_digest
            row = self._db.execute(latest, [departure_name(key, prefix, name) for name in namespaces]).fetchone()
            (ended,) = self._db.execute(expired, (*namespaces, key, prefix)).fetchone()
            if ended is not None and (row is None or ended >= row[1]):
                row = ("expired", ended)
            if row is not None:
                found[place] = Departed(*row)
        return found

    def forget(self, namespace: str) -> None:
        """Remember nothing of a namespace any more; of what was forgotten nobody knows whose it was."""
        self._db.execute("DELETE FROM departures WHERE namespace = ?", (namespace,))

    def models(self) -> frozenset[str]:
        """Fingerprints of the models that objects were stored of last."""
        return frozenset(fingerprint for (fingerprint,) in self._db.execute("SELECT fingerprint FROM models"))
