"""Several real nodes in this process, and objects to keep on them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from kvquilt_cache_node.draining import Drainer
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.putting import PutLimits
from kvquilt_cache_node.service import CacheNodeService
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.types import COUNTERS as NODE_COUNTERS
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import SERVICE_NAME, NodeClient
from kvquilt_rpc.nodes import CacheNodes, ObjectRef
from kvquilt_rpc.server import RpcServer
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object

DEADLINE = 20.0
SETTINGS = NodeSettings(port=0, store="memory", capacity=64 << 20, drain_seconds=0)

OBJECTS = [make_object(make_chunk(40, seed=seed), Level.HIGH, "a document", f"{seed}") for seed in range(40)]
CHUNKS = [meta.chunk_key for _, _, meta in OBJECTS]


@asynccontextmanager
async def own_stores(count: int) -> AsyncIterator[list[str]]:
    """Nodes with a store each; yields their addresses."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_node(SETTINGS)) for _ in range(count)]


@asynccontextmanager
async def one_store(count: int) -> AsyncIterator[list[str]]:
    """Nodes that share a store; yields their addresses."""
    async with servers_of_one_store(count) as servers:
        yield list(servers)


@asynccontextmanager
async def servers_of_one_store(count: int) -> AsyncIterator[dict[str, RpcServer]]:
    """The same; yields the servers by address."""
    store = await open_store(SETTINGS)
    servers = [RpcServer("127.0.0.1", 0, [SERVICE_NAME]) for _ in range(count)]
    for server in servers:
        counters = Counters(NODE_COUNTERS)
        drainer = Drainer(server, counters, None, Hurry())
        service = CacheNodeService(store, counters, PutLimits(1 << 30, 1 << 30), drainer)
        cache_node_pb2_grpc.add_CacheNodeServiceServicer_to_server(service, server.server)
    try:
        yield {await server.start(): server for server in servers}
    finally:
        for server in servers:
            await server.drain(0)
        await store.close()


@asynccontextmanager
async def called(address: str) -> AsyncIterator[NodeClient]:
    """One node by itself."""
    client = NodeClient(address)
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for what happens in the background; a minute is the limit."""
    async with asyncio.timeout(60):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def held(address: str) -> int:
    """How many objects a node has."""
    async with called(address) as client:
        return (await client.status(deadline=DEADLINE)).objects


async def sent(address: str) -> int:
    """How many objects a node has served."""
    async with called(address) as client:
        return (await client.status(deadline=DEADLINE)).counters["gets"]


async def put_all(nodes: CacheNodes, objects: Sequence[tuple[bytes, bytes, ObjectMeta]] = tuple(OBJECTS)) -> None:
    for key, data, meta in objects:
        assert await nodes.put(key, data, meta, deadline=DEADLINE)


async def found(nodes: CacheNodes, chunks: Sequence[bytes] = tuple(CHUNKS)) -> dict[bytes, ObjectRef]:
    """Where one object of each chunk is, of those that are found."""
    variants = await nodes.find_variants(chunks, FINGERPRINT, PREFIX, deadline=DEADLINE)
    return {key: ObjectRef.of(infos[0]) for key, infos in variants.objects.items()}


async def whole(nodes: CacheNodes, ref: ObjectRef, deadline: float = DEADLINE) -> bytes:
    """An object's bytes."""
    pieces = nodes.get(ref, FINGERPRINT, deadline=deadline)
    return b"".join([piece async for piece in pieces if isinstance(piece, bytes)])
