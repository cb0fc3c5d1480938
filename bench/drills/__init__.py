"""Failure drills: real node processes and servers under a small steady load, with one fault at a time (`make drills`).

`load` is what asks, `place` what it asks, `node_faults` and `server_faults` what happens to that, `run` puts them
together.
"""
