"""Why a chunk was missed: records of requests, and what the cache can still tell of them. Read `types.py` first."""
