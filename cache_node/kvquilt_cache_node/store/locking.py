"""One process per folder."""

import fcntl
from pathlib import Path
from typing import IO

from kvquilt_codec.errors import UnavailableError


def locked(folder: Path) -> IO[str]:
    """Make a folder if need be, and hold it for this process until the file that comes back is closed.

    Raises:
        UnavailableError: another process holds it (reason `store_locked`), or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UnavailableError(f"expected a folder that can be written; got {error}: choose another path") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UnavailableError(
            f"expected {folder} for this process alone; another one holds it: stop it or choose another path",
            reason="store_locked",
        ) from None
    return lock
