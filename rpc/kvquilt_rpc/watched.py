"""Files that are read again when they change on disk: certificates, keys, tokens, lists of identities."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from kvquilt_codec.errors import BadRequestError, KvquiltError, NotFoundError

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20

Value = TypeVar("Value")
_Stamp = tuple[tuple[int, int, int], ...]


class Watched(Generic[Value]):
    """What some files say, read again by `get` when one of them has changed.

    What cannot be used (half written, a key that does not fit its certificate) changes nothing: the last good value
    stays, and the log says so once.

    Args:
        paths: of the files.
        parse: makes the value of their contents, in the same order.

    Raises:
        NotFoundError, BadRequestError: a file is missing, too large or no such thing, at the first reading.
    """

    def __init__(self, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], Value]) -> None:
        self._paths = tuple(paths)
        self._parse = parse
        self._stamp: _Stamp | None = self._stamped()
        self._value = parse([read(path) for path in self._paths])

    def get(self) -> Value:
        """The value, as the files are now. A few microseconds if nothing has changed."""
        stamp = self._stamped()
        if stamp is None or stamp == self._stamp:
            return self._value
        self._stamp = stamp
        try:
            self._value = self._parse([read(path) for path in self._paths])
        except KvquiltError as error:
            log.warning("%s changed and cannot be used, what was read before stays: %s", self._names(), error)
        else:
            log.info("read %s again", self._names())
        return self._value

    def _names(self) -> str:
        return ", ".join(str(path) for path in self._paths)

    def _stamped(self) -> _Stamp | None:
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return None
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found)


def read(path: Path) -> bytes:
    """A small file.

    Raises:
        NotFoundError: it cannot be read.
        BadRequestError: it is larger than 1 MiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NotFoundError(f"expected to read {path}; got {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise BadRequestError(f"expected a file of at most {MAX_FILE_BYTES} bytes; {path} is larger")
    return data
