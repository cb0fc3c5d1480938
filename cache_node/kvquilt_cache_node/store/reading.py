"""What the index in SQLite is asked, as pure reads of its database."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from kvquilt_cache_node.store import queries, stays
from kvquilt_cache_node.store.rows import COLUMNS, Row, info_of, kind_of
from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, ObjectInfo, ProfileInfo

_VARIABLES = 500  # keys a query, below SQLite's limit of bound variables


def profiles(db: sqlite3.Connection) -> list[ProfileInfo]:
    """All profiles, the most recently used first."""
    return [ProfileInfo(*row) for row in db.execute(queries.PROFILES)]


def files(db: sqlite3.Connection, like: FileMeta) -> list[FileInfo]:
    """The gates, or the audits, with this description, the one that was stored last first."""
    asked = (kind_of(like), like.profile_digest, like.model_fingerprint)
    return [FileInfo(*row) for row in db.execute(queries.FILES, asked)]


def everything(db: sqlite3.Connection, namespaces: Namespaces = None) -> list[ObjectInfo]:
    """All objects, the most recently used first."""
    whose = "" if namespaces is None else f" AND {queries.among(len(namespaces))}"
    chosen = f"SELECT {COLUMNS} FROM alive WHERE kind = 'object'{whose} ORDER BY last_used DESC, key"  # noqa: S608
    rows = db.execute(chosen, namespaces or ())
    return [_info(db, row) for row in rows.fetchall()]


def page(db: sqlite3.Connection, after: bytes, limit: int) -> list[ObjectInfo]:
    """The first objects with greater keys than this one, in the order of their keys."""
    chosen = f"SELECT {COLUMNS} FROM alive WHERE kind = 'object' AND key > ? ORDER BY key LIMIT ?"  # noqa: S608
    return [_info(db, row) for row in db.execute(chosen, (after, limit)).fetchall()]


def objects(db: sqlite3.Connection, keys: Sequence[bytes], namespaces: Namespaces = None) -> list[ObjectInfo]:
    """The objects that exist among `keys`."""
    count = None if namespaces is None else len(namespaces)
    rows: list[Row] = []
    for begin in range(0, len(keys), _VARIABLES):
        batch = keys[begin : begin + _VARIABLES]
        rows += db.execute(queries.objects(len(batch), count), (*(namespaces or ()), *batch))
    return [_info(db, row) for row in rows]


def variants(
    db: sqlite3.Connection,
    chunk_keys: Sequence[bytes],
    model_fingerprint: str,
    prefix_digest: bytes,
    limit: int,
    namespaces: Namespaces = None,
) -> dict[bytes, list[ObjectInfo]]:
    """Objects by chunk key, at most `limit` of each, the most recently used first."""
    found: dict[bytes, list[ObjectInfo]] = {}
    names = named(db, namespaces)
    query = queries.variants(len(names))
    for chunk in dict.fromkeys(chunk_keys):
        rows = db.execute(query, (*names, chunk, prefix_digest, model_fingerprint, limit)).fetchall()
        if rows:
            found[chunk] = [_info(db, row) for row in rows]
    return found


def texts(
    db: sqlite3.Connection, chunk_keys: Sequence[bytes], limit: int, namespaces: Namespaces = None
) -> dict[bytes, list[ObjectInfo]]:
    """Objects by chunk key, whatever preceded them, at most `limit` of each, the most recently used first."""
    found: dict[bytes, list[ObjectInfo]] = {}
    names = named(db, namespaces)
    query = queries.texts(len(names))
    for chunk in dict.fromkeys(chunk_keys):
        if rows := db.execute(query, (*names, chunk, limit)).fetchall():
            found[chunk] = [_info(db, row) for row in rows]
    return found


def matches(
    db: sqlite3.Connection,
    fingerprints: Sequence[bytes],
    model_fingerprint: str,
    limit: int,
    namespaces: Namespaces = None,
) -> list[ChunkMatch]:
    """Chunks that have these fingerprints, at most `limit` of each."""
    names = named(db, namespaces)
    query = queries.matches(len(names))
    return [
        ChunkMatch(number, *row)
        for number, fingerprint in enumerate(fingerprints)
        for row in db.execute(query, (*names, fingerprint, model_fingerprint, limit))
    ]


def named(db: sqlite3.Connection, namespaces: Namespaces) -> Sequence[str]:
    """These namespaces, or all that have anything."""
    return [name for (name,) in db.execute(queries.ALL_NAMESPACES)] if namespaces is None else namespaces


def _info(db: sqlite3.Connection, row: Row) -> ObjectInfo:
    documents = db.execute("SELECT document_id FROM documents WHERE key = ? ORDER BY document_id", row[:1])
    expires, pinned = stays.stay_of(db, row[0])
    return replace(info_of(row, tuple(document for (document,) in documents)), expires=expires, pinned=pinned)
