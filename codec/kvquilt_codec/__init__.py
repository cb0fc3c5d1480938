"""What a chunk is, its identity, and KV tensors to bytes and back. No I/O."""
