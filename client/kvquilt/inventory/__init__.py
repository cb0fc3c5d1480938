"""What the cache nodes have: rows, sums and Parquet files of it."""
