"""A running cache node: store, service and server, opened and closed together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from kvquilt_cache_node.draining import Drainer
from kvquilt_cache_node.lanes import lanes
from kvquilt_cache_node.metrics.collecting import METRICS, NodeMetrics
from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.putting import PutLimits
from kvquilt_cache_node.service import OPERATORS, SERVICE_NAME, CacheNodeService
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.sweeping import swept
from kvquilt_cache_node.tiers import capacities
from kvquilt_cache_node.types import COUNTERS
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.serving import metrics_served
from kvquilt_rpc.server import RpcServer


@asynccontextmanager
async def running_node(settings: NodeSettings, stop: Callable[[], None] | None = None) -> AsyncIterator[str]:
    """Run a node; yields its address. On leaving, running calls get `drain_seconds`, then the store is closed.

    Args:
        settings: see there.
        stop: ends the process as SIGTERM does, for operators; `None`: the process is not this node's alone.

    Raises:
        UnavailableError: the address is taken, or the store's folder cannot be used.
        NotFoundError, BadRequestError: whom it lets in cannot be as the settings say; metrics without the package.
    """
    counters, meter, hurry = Counters(COUNTERS), NodeMeter(), Hurry()
    server = RpcServer(
        settings.host,
        settings.port,
        [SERVICE_NAME],
        settings.security,
        counters,
        settings.health_port,
        settings.max_connection_age,
        OPERATORS,
        lanes=lanes(settings, counters),
    )
    async with AsyncExitStack() as stack:
        store = await open_store(settings, counters, meter, hurry)
        stack.push_async_callback(store.close)
        drainer = Drainer(server, counters, stop, hurry)
        limits = PutLimits(int(settings.max_object), int(settings.put_bytes))
        service = CacheNodeService(store, counters, limits, drainer, capacities(settings), meter)
        cache_node_pb2_grpc.add_CacheNodeServiceServicer_to_server(service, server.server)
        metrics = NodeMetrics(settings, server, store, counters, meter)
        stack.push_async_callback(metrics.close)
        await stack.enter_async_context(metrics_served(settings, METRICS, metrics.collect))
        address = await server.start()
        async with swept(store.sweep, settings.sweep_seconds):
            try:
                yield address
            finally:
                hurry.begin()
                await server.drain(settings.drain_seconds)
