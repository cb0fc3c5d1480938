"""What a node says of itself."""

import time

import kvquilt_kernels
from kvquilt_cache_node.listing import held
from kvquilt_cache_node.tiers import Capacities, tiers
from kvquilt_cache_node.types import Store
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.version import VERSION


async def node_status(store: Store, counters: Counters, before: Capacities, namespace: str) -> pb.GetNodeStatusResponse:
    """How a node is.

    Args:
        store: of the node.
        counters: of the node.
        before: capacities of the tiers before the store.
        namespace: that the caller acts in; empty: none.
    """
    usage, counts = await store.usage(), counters.snapshot()
    return pb.GetNodeStatusResponse(
        version=VERSION,
        store=store.name,
        objects=usage.objects,
        used_bytes=usage.used_bytes,
        capacity_bytes=usage.capacity_bytes,
        kernels=kvquilt_kernels.default().name,
        counters=counts,
        namespaces=await held(store, namespace),
        pinned_bytes=usage.pinned_bytes,
        pending_deletions=usage.pending_deletions,
        tiers=tiers(before, counts, usage),
        unix_seconds=time.time(),
    )
