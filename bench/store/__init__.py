"""Benchmarks of what is below a node and of a node's stores."""
