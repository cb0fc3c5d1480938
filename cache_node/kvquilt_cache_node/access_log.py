"""The access log: which objects each request needed. The one place that says what its columns are."""

COLUMNS = {"time": "double", "request": "string", "key": "binary", "stored_bytes": "int64", "compute_seconds": "double"}
"""Columns of the Parquet file and their Arrow types.

`time`: seconds since the epoch. `request`: names the request; its rows follow each other, in the order of its prompt.
`key`: of the object, or of the chunk where nothing was stored. `stored_bytes`: what the object takes, or would take.
`compute_seconds`: measured, or estimated, seconds that computing it takes.
"""
