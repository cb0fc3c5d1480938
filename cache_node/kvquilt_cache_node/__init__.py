"""The cache node: encodes, stores and serves the KV of chunks. All state is in its store; no torch."""
