"""A running cache node: store, service and server, opened and closed together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvquilt_cache_node.service import SERVICE_NAME, CacheNodeService
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_cache_node.store.sweeping import swept
from kvquilt_cache_node.tiers import capacities
from kvquilt_cache_node.types import COUNTERS
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.server import RpcServer


@asynccontextmanager
async def running_node(settings: NodeSettings) -> AsyncIterator[str]:
    """Run a node; yields its address. On leaving, running calls get `drain_seconds`, then the store is closed.

    Raises:
        UnavailableError: the address is taken, or the store's folder cannot be used.
        NotFoundError, BadRequestError: whom it lets in cannot be as the settings say.
    """
    counters = Counters(COUNTERS)
    server = RpcServer(settings.host, settings.port, [SERVICE_NAME], settings.security, counters, settings.health_port)
    store = await open_store(settings, counters)
    try:
        service = CacheNodeService(store, counters, int(settings.max_object), capacities(settings))
        cache_node_pb2_grpc.add_CacheNodeServiceServicer_to_server(service, server.server)
        address = await server.start()
        async with swept(store.sweep, settings.sweep_seconds):
            try:
                yield address
            finally:
                await server.drain(settings.drain_seconds)
    finally:
        await store.close()
