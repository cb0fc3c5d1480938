"""Tests of the LMCache adapter; collected only where LMCache is installed, which `make test-lmcache` sees to."""

import importlib.util

import pytest

INSTALLED = importlib.util.find_spec("lmcache") is not None
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]


def pytest_configure(config):
    # LMCache uses what OpenTelemetry and others call deprecated, from its first import on.
    if INSTALLED:
        config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")


@pytest.fixture
def node(tmp_path):
    """A cache node with a file store, in a process of its own."""
    from tests.lmcache.nodes import node_at
    from tests.servers.process import running

    with running(node_at(tmp_path / "node")) as process:
        yield process
