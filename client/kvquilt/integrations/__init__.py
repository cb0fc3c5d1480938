"""Serving engines that fetch from kvquilt. Each module needs its engine installed."""
