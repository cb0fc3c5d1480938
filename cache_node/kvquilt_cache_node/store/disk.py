"""Files that appear whole or not at all, and the errors of a disk in our words."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from kvquilt_codec.errors import CapacityError, KvquiltError, UnavailableError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(path: Path, pieces: Sequence[bytes], tmp: Path, flush: Sequence[Path]) -> None:
    """Write a file beside its place and rename it there.

    Args:
        path: of the file; one that is there is replaced.
        pieces: what goes into it, in order.
        tmp: where it is written first, on the same file system; nothing is there.
        flush: folders to flush after the rename, and the file before it; empty: nothing is flushed.

    Raises:
        CapacityError: the disk is full.
        UnavailableError: it cannot be written.
    """
    try:
        with tmp.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        tmp.rename(path)
        for folder in flush:
            flush_folder(folder)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        size = sum(map(len, pieces))
        raise translated(error, f"expected room for {size} bytes on the store's disk") from None


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the medium."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def translated(error: OSError, expected: str) -> KvquiltError:
    """What a disk answered, as an error of our tree."""
    if error.errno in _FULL:
        return CapacityError(f"{expected}; got {error}: free some or lower the cap", reason="disk_full")
    return UnavailableError(f"{expected}; got {error}")
