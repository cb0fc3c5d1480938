"""Metrics of a server: declared, collected, served over HTTP."""
