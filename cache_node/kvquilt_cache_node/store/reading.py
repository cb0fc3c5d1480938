"""What the index in SQLite is asked, as pure reads of its database."""

import sqlite3
from collections.abc import Sequence

from kvquilt_cache_node.store import queries
from kvquilt_cache_node.store.rows import COLUMNS, Row, info_of
from kvquilt_codec.catalog import ChunkMatch, GateInfo, ObjectInfo, ProfileInfo

_VARIABLES = 500  # keys a query, below SQLite's limit of bound variables


def profiles(db: sqlite3.Connection) -> list[ProfileInfo]:
    """All profiles, the most recently used first."""
    return [ProfileInfo(*row) for row in db.execute(queries.PROFILES)]


def gates(db: sqlite3.Connection, model_fingerprint: str, profile_digest: str) -> list[GateInfo]:
    """The gates of a model and a codec profile, the one that was stored last first."""
    return [GateInfo(*row) for row in db.execute(queries.GATES, (profile_digest, model_fingerprint))]


def everything(db: sqlite3.Connection) -> list[ObjectInfo]:
    """All objects, the most recently used first."""
    chosen = f"SELECT {COLUMNS} FROM objects WHERE kind = 'object' ORDER BY last_used DESC, key"  # noqa: S608
    return [_info(db, row) for row in db.execute(chosen).fetchall()]


def objects(db: sqlite3.Connection, keys: Sequence[bytes]) -> list[ObjectInfo]:
    """The objects that exist among `keys`."""
    rows: list[Row] = []
    for begin in range(0, len(keys), _VARIABLES):
        batch = keys[begin : begin + _VARIABLES]
        marks = ",".join("?" * len(batch))
        chosen = f"SELECT {COLUMNS} FROM objects WHERE key IN ({marks}) AND kind = 'object'"  # noqa: S608  marks only
        rows += db.execute(chosen, batch)
    return [_info(db, row) for row in rows]


def variants(
    db: sqlite3.Connection, chunk_keys: Sequence[bytes], model_fingerprint: str, prefix_digest: bytes, limit: int
) -> dict[bytes, list[ObjectInfo]]:
    """Objects by chunk key, at most `limit` of each, the most recently used first."""
    found: dict[bytes, list[ObjectInfo]] = {}
    for chunk in dict.fromkeys(chunk_keys):
        rows = db.execute(queries.VARIANTS, (chunk, prefix_digest, model_fingerprint, limit)).fetchall()
        if rows:
            found[chunk] = [_info(db, row) for row in rows]
    return found


def matches(
    db: sqlite3.Connection, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int
) -> list[ChunkMatch]:
    """Chunks that have these fingerprints, at most `limit` of each."""
    return [
        ChunkMatch(number, *row)
        for number, fingerprint in enumerate(fingerprints)
        for row in db.execute(queries.MATCHES, (fingerprint, model_fingerprint, limit))
    ]


def _info(db: sqlite3.Connection, row: Row) -> ObjectInfo:
    documents = db.execute("SELECT document_id FROM documents WHERE key = ? ORDER BY document_id", row[:1])
    return info_of(row, tuple(document for (document,) in documents))
