"""Traces from kvquilt's own access log, in Parquet."""

from pathlib import Path

from kvquilt.simulator.types import Access, Trace
from kvquilt_cache_node.access_log import COLUMNS
from kvquilt_codec.errors import BadRequestError, NotFoundError


def read(path: Path) -> Trace:
    """The requests of an access log, in its order. An object has the size that its first row says.

    Raises:
        NotFoundError: pyarrow is not installed.
        BadRequestError: no Parquet file, other columns, or values that cannot be.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NotFoundError("expected pyarrow, which reads access logs: pip install 'kvquilt[analytics]'") from None
    requests: list[list[Access]] = []
    sizes: dict[bytes, int] = {}
    current = None
    try:
        with parquet.ParquetFile(path) as file:
            found = {field.name: str(field.type) for field in file.schema_arrow}
            if any(found.get(name) != kind for name, kind in COLUMNS.items()):
                raise BadRequestError(f"expected the columns {COLUMNS} in {path}; got {found}")
            for batch in file.iter_batches(columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    size, seconds = row["stored_bytes"], row["compute_seconds"]
                    if None in row.values() or size < 0 or not 0 <= seconds < float("inf"):
                        raise BadRequestError(f"expected bytes and seconds of at least 0 in {path}; got {row}")
                    if row["request"] != current:
                        current = row["request"]
                        requests.append([])
                    size = sizes.setdefault(row["key"], max(size, 1))
                    requests[-1].append(Access(row["key"], size, seconds))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRequestError(f"expected a Parquet file at {path}; got {error}") from None
    return Trace(path.name, requests)
