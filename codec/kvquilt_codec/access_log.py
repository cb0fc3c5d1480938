"""The access log: which chunks each request needed. The one place that says what its columns are."""

COLUMNS = {
    "time": "double",
    "request": "string",
    "namespace": "string",
    "key": "binary",
    "tokens": "int32",
    "stored_bytes": "int64",
    "compute_seconds": "double",
    "found": "bool",
    "tier": "string",
}
"""Columns of the Parquet files and their Arrow types; nothing is null.

`time`: seconds since the epoch, when the request was done. `request`: names the request, as its report does, and
`kvquilt why` takes it while the router keeps the request; its rows follow each other, in the order of its prompt, each
chunk once. `namespace`: whose the chunk is. `key`: of the chunk, under its namespace's secret: the same whether it was
found or not, and in which variant. `stored_bytes`: what the object that served it takes, or, if none did, what one
would take, estimated. `compute_seconds`: measured, or estimated, seconds that computing it takes. `found`: it was
served from the cache. `tier`: where it was read (a value of `Tier`); empty if it was not found.
"""

Row = tuple[float, str, str, bytes, int, int, float, bool, str]
"""Values in the order of `COLUMNS`."""

SUFFIX = ".parquet"
"""What the name of every finished file ends with. The order of names is the order of time."""
