"""The files of a write queue: one for each write or delete that the store behind it has not got yet.

Layout of the folder: `entries/NUMBER-KEY.put` and `entries/NUMBER-KEY.del` (16 and 64 hex digits), unfinished ones in
`tmp`, `lock`. A `.put` is a head of 64 bytes and the blob; a `.del` is empty.
"""

import os
import re
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from kvquilt_cache_node.store.disk import flush_folder, translated, write_whole
from kvquilt_cache_node.store.locking import locked
from kvquilt_cache_node.store.ranges import check_ranges
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import IntegrityError, UnavailableError

MAGIC, VERSION = b"KVQW", 1
HEAD = struct.Struct("<4sI32sQQQ")
"""Magic, version, key, size of the blob, XXH3-64 of the blob, XXH3-64 of the head up to here: so in every version."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{64})\.(put|del)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A write or a delete that waits.

    Attributes:
        number: later ones have higher numbers.
        size: bytes of the blob; `None`: a delete.
        since: when it was queued, in seconds since the epoch.
    """

    number: int
    key: bytes
    size: int | None
    since: float

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.number:016x}-{self.key.hex()}.{'del' if self.size is None else 'put'}"


class QueueFiles:
    """Reads and writes them. Every call may take as long as the disk does.

    Args:
        folder: created if it does not exist. Only one process may hold it.
        fsync: flush every entry to the medium before the call returns, so that it survives a power cut too.

    Raises:
        UnavailableError: another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._entries = folder / "entries"
        self._tmp = folder / "tmp"
        self._fsync = fsync
        self._lock = locked(folder)
        try:
            self._entries.mkdir(exist_ok=True)
            self._tmp.mkdir(exist_ok=True)
            for leftover in self._tmp.iterdir():
                leftover.unlink()
        except OSError as error:
            self._lock.close()
            raise UnavailableError(f"expected a folder that can be written; got {error}: choose another path") from None

    def load(self) -> tuple[list[Entry], list[str]]:
        """All entries in their order, and the names of files that are no whole entries.

        Raises:
            IntegrityError: an entry of a later format.
            UnavailableError: the folder cannot be read.
        """
        found: list[Entry] = []
        broken: list[str] = []
        try:
            for path in sorted(self._entries.iterdir()):
                entry = _entry(path)
                if entry is None:
                    broken.append(path.name)
                else:
                    found.append(entry)
        except OSError as error:
            raise translated(error, "expected a readable write queue") from None
        return found, broken

    def write(self, entry: Entry, data: bytes) -> None:
        """Add an entry; `data` is empty for a delete.

        Raises:
            CapacityError: the disk is full.
            UnavailableError: it cannot be written.
        """
        pieces = [] if entry.size is None else [_head(entry.key, data), data]
        flush = [self._entries] if self._fsync else []
        write_whole(self._entries / entry.name, pieces, self._tmp / uuid.uuid4().hex, flush)

    def read(self, entry: Entry, ranges: Sequence[ByteRange] | None) -> list[bytes] | None:
        """The bytes of ranges of a blob (`None`: everything, against its checksum); `None` if its file is gone.

        Raises:
            IntegrityError: a range lies outside the blob; or these are not the bytes that were written.
            UnavailableError: the disk cannot be read.
        """
        try:
            with (self._entries / entry.name).open("rb") as file:
                size, digest = _parsed(file.read(HEAD.size), entry.key, os.fstat(file.fileno()).st_size)
                chosen = [(0, size)] if ranges is None else ranges
                check_ranges(chosen, size)
                pieces = []
                for begin, end in chosen:
                    file.seek(HEAD.size + begin)
                    pieces.append(file.read(end - begin))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translated(error, "expected a readable write queue") from None
        if ranges is None and xxhash.xxh3_64_intdigest(pieces[0]) != digest:
            raise IntegrityError(
                f"expected the bytes that were queued as object {entry.key.hex()[:16]}...; the disk gave others",
                reason="checksum",
            )
        return pieces

    def remove(self, name: str, *, flush: bool = False) -> None:
        """Delete a file, if it is there; it may come back with a power cut unless that is flushed.

        Raises:
            UnavailableError: it cannot be deleted.
        """
        try:
            (self._entries / name).unlink(missing_ok=True)
            if flush and self._fsync:
                flush_folder(self._entries)
        except OSError as error:
            raise translated(error, "expected a write queue that can be changed") from None

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()


def _head(key: bytes, data: bytes) -> bytes:
    head = HEAD.pack(MAGIC, VERSION, key, len(data), xxhash.xxh3_64_intdigest(data), 0)[:-8]
    return head + _check(head)


def _parsed(head: bytes, key: bytes, file_bytes: int) -> tuple[int, int]:
    """Size and digest of the blob in a file of so many bytes."""
    if len(head) == HEAD.size and head[-8:] == _check(head[:-8]):
        magic, version, named, size, digest, _ = HEAD.unpack(head)
        if magic == MAGIC and version > VERSION:
            raise IntegrityError(
                f"expected a write queue of format {VERSION}; got one of format {version}: let the newer kvquilt "
                "work it off",
                reason="unknown_version",
            )
        if magic == MAGIC and version == VERSION and named == key and size == file_bytes - HEAD.size:
            return size, digest
    raise IntegrityError(f"expected a queued write of object {key.hex()[:16]}...; its file is damaged")


def _check(head: bytes) -> bytes:
    return xxhash.xxh3_64_digest(head)[::-1]


def _entry(path: Path) -> Entry | None:
    found = _NAME.fullmatch(path.name)
    if found is None:
        return None
    key, stat = bytes.fromhex(found[2]), path.stat()
    size: int | None = None
    if found[3] == "put":
        with path.open("rb") as file:
            try:
                size, _ = _parsed(file.read(HEAD.size), key, stat.st_size)
            except IntegrityError as error:
                if error.reason == "unknown_version":
                    raise
                return None
    return Entry(int(found[1], 16), key, size, stat.st_mtime)
