"""Writes the access log: Parquet files of bounded number and size, by a thread that no request waits for."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from kvquilt_codec.access_log import COLUMNS, SUFFIX, Row
from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)

ROWS_PER_FILE = 1 << 16
"""A file is written when so many rows wait, or when its time has come."""
MAX_WAITING = 2 * ROWS_PER_FILE
"""Rows that wait for a slow disk; requests beyond them are dropped and counted."""
MIN_BYTES = 16 << 20
"""Least that a log may take: more than two full files."""
_PREFIX = "access-"
_ABANDONED_SECONDS = 3600.0
"""Older unfinished files are those of a process that died."""

Encode = Callable[[Sequence[Row]], "memoryview"]


class AccessLog:
    """Takes rows from requests and writes them to files in a folder, the oldest of which make room for new ones.

    Several routers may write to one folder; then the limits are of all of them together. A file is complete as soon as
    it has its name. A process that is killed loses what it had not written.

    Args:
        folder: made if it is missing.
        seconds: a request waits at most so long before it is written.
        max_bytes: of all finished files together, before each new one is written and after.
        max_files: likewise.
        counters: of the router.

    Raises:
        BadRequestError: pyarrow is not installed.
        UnavailableError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, seconds: float, max_bytes: int, max_files: int, counters: Counters) -> None:
        self._encode = _encoder()
        self._folder = folder
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._counters = counters
        self._name = uuid.uuid4().hex[:8]
        self._files = 0
        self._changed = threading.Condition()
        self._waiting: list[Row] = []
        self._requests = 0
        self._closing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_abandoned()
            self._put_down(folder / f"{_PREFIX}{self._name}.probe", b"", keep=False)
        except OSError as error:
            raise UnavailableError(
                f"expected a folder for the access log that can be written; got {error}: set router.access_log"
            ) from None
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait to be written."""
        return len(self._waiting)

    def add(self, rows: Sequence[Row]) -> None:
        """Take the rows of one request, to be written later; they are dropped and counted if too many wait."""
        with self._changed:
            if self._closing or len(self._waiting) + len(rows) > MAX_WAITING:
                self._counters.add("access_log_dropped")
                return
            self._waiting += rows
            self._requests += 1
            if len(self._waiting) >= ROWS_PER_FILE:
                self._changed.notify()

    def close(self, seconds: float) -> None:
        """Write what waits, for at most so long. Requests are dropped from now on."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("the access log's disk is too slow: its last requests may be lost")

    def _run(self) -> None:
        while True:
            with self._changed:
                ready = self._changed.wait_for(
                    lambda: self._closing or len(self._waiting) >= ROWS_PER_FILE, self._seconds
                )
                rows, requests, closing = self._waiting, self._requests, self._closing
                self._waiting, self._requests = [], 0
            if rows:
                self._write(rows, requests)
            if ready and closing:
                return

    def _write(self, rows: Sequence[Row], requests: int) -> None:
        try:
            data = self._encode(rows)
            self._make_room(len(data))
            now = datetime.fromtimestamp(time.time(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            self._files += 1
            name = f"{_PREFIX}{now}-{self._name}-{self._files:06d}{SUFFIX}"
            self._put_down(self._folder / name, data, keep=True)
        except Exception as error:  # noqa: BLE001  whatever it is, requests go on, and so does the next file
            self._counters.add("access_log_dropped", requests)
            log.warning("%d requests are not in the access log: %s", requests, error)
        else:
            self._counters.add("access_log_requests", requests)

    def _put_down(self, path: Path, data: "bytes | memoryview", *, keep: bool) -> None:
        """Write a file under another name, and give it its own when it is safe on the disk."""
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            unfinished.touch(0o600, exist_ok=False)
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep:
                unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Delete the oldest files until one more of this size is within the limits."""
        found = []
        for path in sorted(self._folder.glob(f"{_PREFIX}*{SUFFIX}")):
            try:
                found.append((path, path.stat().st_size))
            except FileNotFoundError:
                continue  # another router made room
        total = sum(own for _, own in found)
        for number, (path, own) in enumerate(found):
            if total + size <= self._max_bytes and len(found) - number < self._max_files:
                return
            path.unlink(missing_ok=True)
            total -= own

    def _drop_abandoned(self) -> None:
        for path in self._folder.glob(f".{_PREFIX}*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue


def _encoder() -> Encode:
    """Makes the bytes of a Parquet file of rows.

    Raises:
        BadRequestError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadRequestError(
            "expected pyarrow for router.access_log: pip install 'kvquilt[analytics]', or unset it"
        ) from None
    schema = pyarrow.schema(
        [pyarrow.field(name, pyarrow.type_for_alias(kind), False) for name, kind in COLUMNS.items()]
    )
    return lambda rows: _encoded(pyarrow, parquet, schema, rows)


def _encoded(pyarrow: ModuleType, parquet: ModuleType, schema: Any, rows: Sequence[Row]) -> memoryview:
    arrays = [pyarrow.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    return memoryview(sink.getvalue())
