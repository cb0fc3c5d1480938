"""How many round trips a look-up of 100 chunks takes: one to each node, and of the node one to an index in Redis."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.types import LayerShape, Level
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes import CacheNodes, ObjectRef, open_nodes
from tests import servers
from tests.cache_node.calls import DEADLINE, Node, serving
from tests.cache_node.remote import prefix_of
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object

COUNT = 100
OBJECTS = [make_object(make_chunk(3, (LayerShape(1, 2, 2),), seed=seed), Level.HIGH) for seed in range(COUNT)]
KEYS = [key for key, _, _ in OBJECTS]
CHUNKS = [meta.chunk_key for _, _, meta in OBJECTS]
REFS = [ObjectRef(key, meta.chunk_key) for key, _, meta in OBJECTS]


@pytest.fixture
async def node(valkey: servers.RedisServer, tmp_path: Path) -> AsyncIterator[Node]:
    """With its index in Redis."""
    settings = {"redis_url": valkey.url, "redis_prefix": prefix_of(tmp_path), "index": "redis", "eviction": "lru"}
    async with serving("redis", tmp_path, **settings) as running:
        yield running


async def came(server: Redis) -> tuple[int, int]:
    """Scripts that the server ran, and requests that it read from its connections, this one included."""
    commands = await server.info("commandstats")
    stats = await server.info("stats")
    return commands["cmdstat_evalsha"]["calls"], stats["total_reads_processed"]


async def test_a_look_up_of_100_asks_an_index_in_redis_once(node: Node, valkey: servers.RedisServer) -> None:
    for key, data, meta in OBJECTS:
        await node.client.put(key, data, meta, deadline=DEADLINE)
    async with Redis(port=valkey.port) as server:
        await node.client.stat(KEYS[:1], deadline=DEADLINE)  # the server knows the scripts from now on
        await node.client.find_variants(CHUNKS[:1], FINGERPRINT, PREFIX, deadline=DEADLINE)
        before = await came(server)
        own = (await came(server))[1] - before[1]
        before = await came(server)
        assert len(await node.client.stat(KEYS, deadline=DEADLINE)) == COUNT
        between = await came(server)
        assert len(await node.client.find_variants(CHUNKS, FINGERPRINT, PREFIX, deadline=DEADLINE)) == COUNT
        after = await came(server)
    for one, other in ((before, between), (between, after)):
        assert (other[0] - one[0], other[1] - one[1] - own) == (1, 1)


async def lookups(address: str) -> int:
    client = NodeClient(address)
    try:
        return (await client.status(deadline=DEADLINE)).counters["lookups"]
    finally:
        await client.close()


async def filled(nodes: CacheNodes) -> None:
    for key, data, meta in OBJECTS:
        await nodes.put(key, data, meta, deadline=DEADLINE)


async def test_a_look_up_of_100_on_several_nodes_asks_each_once() -> None:
    settings = NodeSettings(port=0, store="memory", capacity=64 << 20, drain_seconds=0)
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(running_node(settings)) for _ in range(3)]
        nodes = await stack.enter_async_context(open_nodes(addresses))
        await filled(nodes)
        assert len(await nodes.stat(REFS, deadline=DEADLINE)) == COUNT
        assert [await lookups(address) for address in addresses] == [1, 1, 1]
        assert len((await nodes.find_variants(CHUNKS, FINGERPRINT, PREFIX, deadline=DEADLINE)).objects) == COUNT
        assert [await lookups(address) for address in addresses] == [2, 2, 2]
