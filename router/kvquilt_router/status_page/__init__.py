"""The router's status page: read-only, over HTTP, off by default. Read `settings.py` and `data.py` first."""
