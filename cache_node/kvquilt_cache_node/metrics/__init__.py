"""Metrics of a cache node."""
