"""Metrics of a router."""
