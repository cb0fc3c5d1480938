"""Running nodes, one with a profile and an object coded with it; and the servers that stores talk to."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.store.redis_index import RedisIndex
from tests import servers
from tests.cache_node.calls import DEADLINE, Node, serving
from tests.cache_node.coded import CONTAINER, DATA, DIGEST, KEY, META
from tests.cache_node.remote import prefix_of, redis_index
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


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RedisServer]:
    """A Valkey that tests share; they use prefixes of their own and leave it running."""
    with servers.valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[servers.RedisServer]]:
    """Three primaries, shared likewise."""
    with servers.valkey_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """An S3 service, shared likewise."""
    with servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def redis(valkey: servers.RedisServer) -> AsyncIterator[Redis]:
    async with Redis(host=servers.HOST, port=valkey.port) as client:
        yield client


@pytest.fixture
async def open_index(
    valkey: servers.RedisServer, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[RedisIndex]]]:
    opened: list[RedisIndex] = []

    async def opening(policy: Any = "lru", **options: float) -> RedisIndex:
        opened.append(await redis_index(valkey.url, tmp_path, policy, **options))
        return opened[-1]

    yield opening
    for index in opened:
        await index.close()


@pytest.fixture
def names(tmp_path: Path) -> Callable[[str], bytes]:
    """The name of a key of the test's index; characters of Latin-1 are bytes."""
    return lambda name: f"{{{prefix_of(tmp_path)}:index}}:{name}".encode("latin-1")
