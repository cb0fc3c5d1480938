"""Blobs as files under one folder. A blob appears by rename, so that a reader never sees a part of one."""

import asyncio
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.disk import translated, write_whole
from kvquilt_cache_node.store.locking import locked
from kvquilt_cache_node.store.ranges import check_ranges
from kvquilt_cache_node.store.whole import InOnePiece
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import NotFoundError, UnavailableError
from kvquilt_codec.identity import DIGEST_BYTES, check_digest

_SUFFIX = ".kvq"


class FileBlobs(InOnePiece):
    """See `Blobs`. Layout: `ROOT/blobs/ab/abcd....kvq`, unfinished writes in `ROOT/tmp`, `ROOT/lock`.

    Args:
        root: folder; created if it does not exist. Only one process may hold it.
        fsync: flush file and folder to the medium before a write returns, so that it survives a power cut too.

    Raises:
        UnavailableError: another process holds the folder, or it cannot be written.
    """

    name = "file"
    durable = True

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self._blobs = root / "blobs"
        self._tmp = root / "tmp"
        self._fsync = fsync
        self._open = Open("file")
        self._lock = locked(root)
        try:
            self._blobs.mkdir(exist_ok=True)
            self._tmp.mkdir(exist_ok=True)
        except OSError as error:
            self._lock.close()
            raise UnavailableError(f"expected a folder that can be written; got {error}: choose another path") from None
        for leftover in self._tmp.iterdir():
            leftover.unlink()

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        await asyncio.to_thread(self._write, self._path(key), data)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        return await asyncio.to_thread(self._read, self._path(key), ranges)

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        path = self._path(key)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise translated(error, "expected a disk that can be written") from None

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`. Files with names that are no keys are left alone and not listed; the oldest are first."""
        self._open.check()
        return await asyncio.to_thread(self._sizes)

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._open.close()
        self._lock.close()

    def _path(self, key: bytes) -> Path:
        self._open.check()
        name = check_digest(key, "key").hex()
        return self._blobs / name[:2] / (name + _SUFFIX)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise translated(error, "expected a disk that can be written") from None
        write_whole(path, [data], self._tmp / uuid.uuid4().hex, [path.parent, self._blobs] if self._fsync else [])

    def _read(self, path: Path, ranges: Sequence[ByteRange] | None) -> list[bytes]:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                chosen = [(0, size)] if ranges is None else ranges
                check_ranges(chosen, size)
                pieces: list[bytes] = []
                for begin, end in chosen:
                    file.seek(begin)
                    pieces.append(file.read(end - begin))
                return pieces
        except FileNotFoundError:
            raise NotFoundError(f"expected object {path.stem[:16]}... on disk; it is not there") from None
        except OSError as error:
            raise translated(error, "expected a readable disk") from None

    def _sizes(self) -> dict[bytes, int]:
        found: dict[bytes, os.stat_result] = {}
        for path in self._blobs.glob("??/*" + _SUFFIX):
            try:
                key = bytes.fromhex(path.name.removesuffix(_SUFFIX))
            except ValueError:
                continue
            if len(key) == DIGEST_BYTES:
                found[key] = path.stat()
        return {key: found[key].st_size for key in sorted(found, key=lambda key: found[key].st_mtime_ns)}
