"""Formats on this machine's node: of what lies in its folder, and of an index in Redis."""

import asyncio
import sqlite3
from pathlib import Path

from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.stores import node_redis
from kvquilt.doctoring.types import Part, Patient
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.queue_files import HEAD, MAGIC
from kvquilt_cache_node.store.queue_files import VERSION as QUEUE_VERSION
from kvquilt_cache_node.store.rows import VERSION as INDEX_VERSION

_NEWER = "a newer kvquilt wrote it: install that one, or begin with another folder or prefix"
_OLDER = "in SQLite it is made anew from the objects at the next start; in Redis run `kvquilt repair --rebuild`"


async def formats(patient: Patient) -> Finding:
    """Index and write queue are of the formats that this program reads."""
    if Part.NODE not in patient.parts:
        raise SkippedError("the node's settings are not of this machine", "--part node")
    found: list[tuple[str, int, int]] = []
    node = patient.node
    if node.index == "sqlite" and node.store != "memory":
        version = await asyncio.to_thread(_sqlite_version, _index_file(node))
        found += [] if version is None else [("the index in SQLite", version, INDEX_VERSION)]
    if node.index == "redis":
        found += await _in_redis(patient)
    version = await asyncio.to_thread(_queue_version, node.queue_folder / "entries")
    found += [] if version is None else [("the write queue", version, QUEUE_VERSION)]
    if not found:
        raise SkippedError("there is no index yet, and no queue")
    got = "; ".join(f"{what}: {there} ({known} is read)" for what, there, known in found)
    if any(there > known for _, there, known in found):
        return Finding(Outcome.FAILED, promise(formats), got, _NEWER)
    if any(there < known for _, there, known in found):
        return Finding(Outcome.WARNED, promise(formats), got, _OLDER)
    return Finding(Outcome.PASSED, promise(formats), got)


def _index_file(node: NodeSettings) -> Path:
    return (node.path if node.store == "file" else node.path / node.store) / "index.sqlite"


def _sqlite_version(path: Path) -> int | None:
    """Of an index; `None` if there is none. Reads the file's head alone, so that a node goes on undisturbed."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return None
    if not head.startswith(b"SQLite format 3\0") or len(head) < 64:
        return 0
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:  # the version may stand there only
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            return int(version)
        except sqlite3.Error:
            return 0
        finally:
            db.close()
    return int.from_bytes(head[60:64], "big")


async def _in_redis(patient: Patient) -> list[tuple[str, int, int]]:
    from kvquilt_cache_node.store.redis_format import FORMAT

    found = []
    for use, _, client in node_redis(patient):
        from kvquilt_cache_node.store.redis_rights import index_format

        try:
            text = await index_format(client, patient.node.redis_prefix) if use == "store" else ""
        finally:
            await client.close()
        if text:
            found.append(("the index in Redis", int(text) if text.isdigit() else 0, int(FORMAT)))
    return found


def _queue_version(entries: Path) -> int | None:
    """The latest format of what waits; `None` if nothing does."""
    found = []
    for path in entries.glob("*.put") if entries.is_dir() else ():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD.size)
        except OSError:
            continue
        if len(head) == HEAD.size and head.startswith(MAGIC):
            found.append(int(HEAD.unpack(head)[1]))
    return max(found, default=None)
