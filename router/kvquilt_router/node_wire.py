"""Cache nodes as a router tells of them."""

from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc.nodes.types import NodeState


def node_message(state: NodeState, overall: bool) -> pb.NodeStatus:
    """A cache node's state; what all tenants do on it is shown only if `overall`."""
    message = pb.NodeStatus(target=state.target, serving=state.serving, breaker=state.breaker)
    if overall:
        message.outstanding, message.calls, message.failures = state.outstanding, state.calls, state.failures
        if state.round_trip_seconds is not None:
            message.round_trip_seconds = state.round_trip_seconds
    if state.status is not None:
        message.reachable = True
        message.store = state.status.store
        message.kernels = state.status.kernels
        if overall:
            message.objects = state.status.objects
            message.used_bytes = state.status.used_bytes
            message.capacity_bytes = state.status.capacity_bytes
            message.pinned_bytes = state.status.pinned_bytes
            message.pending_deletions = state.status.pending_deletions
            message.tiers.extend(state.status.tiers)
    return message
