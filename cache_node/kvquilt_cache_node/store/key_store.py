"""What keeps wrapped keys: records by name. None of it is secret to whoever has no master key."""

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol, TypeVar

from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.disk import flush_folder, translated
from kvquilt_codec.errors import BadRequestError

Result = TypeVar("Result")

STORE = "store"
"""Name of the record of the store's own key: if it is there, the store is encrypted."""
MAX_RECORD_BYTES = 4096
"""What is longer is no record; nobody reads further."""
_NAME = re.compile(r"[a-z0-9]{1,64}")
_SUFFIX = ".key"


class KeyStore(Protocol):
    """Records by name (1 to 64 small letters and digits). Every call is one atomic step for all who share the store.

    Any call may raise UnavailableError, DeadlineError or CapacityError: the medium failed.
    """

    async def get(self, name: str) -> bytes | None:
        """The record of this name."""

    async def swap(self, name: str, expected: bytes | None, record: bytes) -> bytes:
        """Put a record in place of `expected` (`None`: of nothing); return what is there after that.

        Where something else stands, it stays, and is what comes back; where nothing stands any more, `b""`.
        """

    async def delete(self, name: str) -> bool:
        """Destroy a record, for good on this medium as far as it lets one; `False` if there was none."""

    async def names(self) -> list[str]:
        """Of all records, in any order."""

    async def close(self) -> None:
        """Release what is held."""


def check_name(name: str) -> str:
    """Return the name of a record.

    Raises:
        BadRequestError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise BadRequestError(f"expected a record's name of 1..64 small letters and digits; got {name[:80]!r}")
    return name


class MemoryKeys:
    """See `KeyStore`. Gone with the process, as the blobs that they are for."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}
        self._open = Open("key")

    async def get(self, name: str) -> bytes | None:
        """See `KeyStore.get`."""
        self._open.check()
        return self._records.get(check_name(name))

    async def swap(self, name: str, expected: bytes | None, record: bytes) -> bytes:
        """See `KeyStore.swap`."""
        there = await self.get(name)
        if there != expected:
            return there or b""
        self._records[name] = record
        return record

    async def delete(self, name: str) -> bool:
        """See `KeyStore.delete`."""
        self._open.check()
        return self._records.pop(check_name(name), None) is not None

    async def names(self) -> list[str]:
        """See `KeyStore.names`."""
        self._open.check()
        return list(self._records)

    async def close(self) -> None:
        """See `KeyStore.close`."""
        self._open.close()
        self._records.clear()


class FileKeys:
    """See `KeyStore`. One file a record, `FOLDER/NAME.key`, flushed before a call returns.

    A deleted one is overwritten with zeros before its name goes; a file of zeros is one whose deletion a crash cut off.
    Several processes may use a folder at once: changes are made under a lock on `FOLDER/lock`.

    Args:
        folder: made when the first record is written, for its owner only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = Open("key")

    async def get(self, name: str) -> bytes | None:
        """See `KeyStore.get`."""
        return await self._call(lambda: self._read(self._path(name)))

    async def swap(self, name: str, expected: bytes | None, record: bytes) -> bytes:
        """See `KeyStore.swap`."""
        return await self._call(lambda: self._swap(self._path(name), expected, record))

    async def delete(self, name: str) -> bool:
        """See `KeyStore.delete`."""
        return await self._call(lambda: self._delete(self._path(name)))

    async def names(self) -> list[str]:
        """See `KeyStore.names`."""
        return await self._call(self._names)

    async def close(self) -> None:
        """See `KeyStore.close`."""
        self._open.close()

    async def _call(self, work: Callable[[], Result]) -> Result:
        self._open.check()
        return await asyncio.to_thread(_in_our_words, work)

    def _path(self, name: str) -> Path:
        return self._folder / (check_name(name) + _SUFFIX)

    def _names(self) -> list[str]:
        found = [path for path in self._folder.glob("*" + _SUFFIX) if _NAME.fullmatch(path.stem)]
        return [path.stem for path in found if self._read(path) is not None]

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                record = file.read(MAX_RECORD_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return record if any(record) else None

    def _swap(self, path: Path, expected: bytes | None, record: bytes) -> bytes:
        with self._alone():
            there = self._read(path)
            if there != expected:
                return there or b""
            fresh = path.with_suffix(".new")
            with open(fresh, "wb", opener=_for_owner) as file:
                file.write(record)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.ExitStack() as opened:
                old = None if there is None else opened.enter_context(path.open("r+b"))
                fresh.rename(path)
                flush_folder(self._folder)
                if old is not None:  # only now: a crash must leave one of both
                    _overwrite(old)
            return record

    def _delete(self, path: Path) -> bool:
        with self._alone():
            there = self._read(path) is not None
            if there:
                with path.open("r+b") as file:
                    _overwrite(file)
            path.unlink(missing_ok=True)
            flush_folder(self._folder)
        return there

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _overwrite(file: IO[bytes]) -> None:
    file.write(bytes(os.fstat(file.fileno()).st_size))
    file.flush()
    os.fsync(file.fileno())


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _in_our_words(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except OSError as error:
        raise translated(error, "expected a key store that can be read and written") from None
