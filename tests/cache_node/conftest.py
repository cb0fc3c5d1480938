"""Running nodes: empty ones, and one that has a profile and an object coded with it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cache_node.calls import DEADLINE, Node, serving
from tests.cache_node.coded import CONTAINER, DATA, DIGEST, KEY, META
from tests.codec.samples import FINGERPRINT


@pytest.fixture(params=["memory", "file"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    async with serving(request.param, tmp_path) as running:
        yield running


@pytest.fixture
async def holding(node: Node) -> Node:
    """A node that has the profile and one object coded with it."""
    assert await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True
    assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    return node
