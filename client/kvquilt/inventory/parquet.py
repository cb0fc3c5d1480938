"""Writes an inventory to a Parquet file, which has its name only when all of it is there."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from kvquilt.inventory.types import ARROW_TYPES, NAMES, TIME, InventoryRow
from kvquilt_codec.errors import NotFoundError, UnavailableError

ROWS_PER_GROUP = 1 << 14
"""Rows that are held in memory; each group of them is written as soon as it is full."""
_MICROSECONDS = 1e6
_TIMES = {name for name, kind in ARROW_TYPES.items() if kind == TIME}


class InventoryFile:
    """A Parquet file of rows; a context manager. Left with an error, it leaves nothing, and what was there stays.

    Raises:
        NotFoundError: pyarrow is not installed.
        UnavailableError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise NotFoundError(
                "expected pyarrow, which writes Parquet files: pip install 'kvquilt[analytics]'"
            ) from None
        self._arrow = pyarrow
        self._schema = pyarrow.schema(
            [pyarrow.field(name, _type(pyarrow, kind), False) for name, kind in ARROW_TYPES.items()]
        )
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._rows: list[InventoryRow] = []
        try:
            self._writer = parquet.ParquetWriter(self._unfinished, self._schema, compression="zstd")
        except OSError as error:
            raise _unwritable(error) from None

    def __enter__(self) -> "InventoryFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                self._unfinished.replace(self._path)
        except OSError as problem:
            if kind is None:
                raise _unwritable(problem) from None
        finally:
            self._unfinished.unlink(missing_ok=True)

    def add(self, row: InventoryRow) -> None:
        """Write a row.

        Raises:
            UnavailableError: the file cannot be written.
        """
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_GROUP:
            try:
                self._flush()
            except OSError as error:
                raise _unwritable(error) from None

    def _flush(self) -> None:
        columns = [self._arrow.array(list(self._column(name)), self._schema.field(name).type) for name in ARROW_TYPES]
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._rows.clear()

    def _column(self, name: str) -> Iterator[Any]:
        values = (getattr(row, name) for row in self._rows)
        return (round(value * _MICROSECONDS) for value in values) if name in _TIMES else values


def _type(arrow: ModuleType, kind: str) -> Any:
    if kind == TIME:
        return arrow.timestamp("us", "UTC")
    return arrow.list_(arrow.field("element", arrow.string(), False)) if kind == NAMES else arrow.type_for_alias(kind)


def _unwritable(error: OSError) -> UnavailableError:
    return UnavailableError(f"expected a file that can be written; got {error}")
