"""Traces from kvquilt's own access log, in Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvquilt.simulator.types import Access, Trace
from kvquilt_codec.access_log import COLUMNS
from kvquilt_codec.errors import BadRequestError, NotFoundError


def read(paths: Sequence[Path], name: str) -> Trace:
    """The requests of an access log's files as one trace, in the order of their times.

    A chunk has the size that the last row says that found it, or where none did its first row: what was not found is an
    estimate.

    Args:
        paths: of files; those that are gone meanwhile are left out, since a log deletes its oldest.
        name: of the trace.

    Raises:
        NotFoundError: pyarrow is not installed.
        BadRequestError: no Parquet file, other columns, or values that cannot be.
    """
    requests: list[tuple[float, list[tuple[bytes, float]]]] = []
    sizes: dict[bytes, int] = {}
    for path in paths:
        current = None
        for row in _rows(path):
            key, size = row["key"], max(row["stored_bytes"], 1)
            if row["request"] != current:
                current = row["request"]
                requests.append((row["time"], []))
            requests[-1][1].append((key, row["compute_seconds"]))
            sizes[key] = size if row["found"] else sizes.get(key, size)
    requests.sort(key=lambda request: request[0])
    return Trace(name, [[Access(key, sizes[key], cost) for key, cost in needed] for _, needed in requests])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NotFoundError("expected pyarrow, which reads access logs: pip install 'kvquilt[analytics]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            found = {field.name: str(field.type) for field in file.schema_arrow}
            if any(found.get(name) != kind for name, kind in COLUMNS.items()):
                raise BadRequestError(f"expected the columns {COLUMNS} in {path}; got {found}")
            for batch in file.iter_batches(columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    if (
                        None in row.values()
                        or row["stored_bytes"] < 0
                        or not 0 <= row["compute_seconds"] < float("inf")
                    ):
                        raise BadRequestError(f"expected bytes and seconds of at least 0 in {path}; got {row}")
                    yield row
    except FileNotFoundError:
        return
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRequestError(f"expected a Parquet file at {path}; got {error}") from None
