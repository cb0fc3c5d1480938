"""Calls by which operators take a cache node out of service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.status import translated, well_formed


class DrainAction(Enum):
    """What a node is told to do; see `DrainAction` of the protocol."""

    LOOK = pb.DRAIN_ACTION_UNSPECIFIED
    BEGIN = pb.DRAIN_ACTION_BEGIN
    UNDO = pb.DRAIN_ACTION_UNDO
    STOP = pb.DRAIN_ACTION_STOP


@dataclass(frozen=True, slots=True)
class DrainState:
    """How far a node is; fields as in `DrainNodeResponse`."""

    draining: bool
    running_calls: int
    quiet_seconds: float
    queue_entries: int
    queue_bytes: int


class NodeControl:
    """Calls one node as an operator. Open it with `node_control`."""

    def __init__(self, stub: "cache_node_pb2_grpc.CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def drain(self, action: DrainAction, *, deadline: float) -> DrainState:
        """Take the node out of service, or back; how it is then.

        Raises:
            PermissionDeniedError: the caller is no operator.
            BadRequestError: a node is to end that does not drain, or that shares its process.
        """
        async with translated():
            request = pb.DrainNodeRequest(action=action.value)
            said = well_formed(await self._stub.DrainNode(request, timeout=deadline))
        return DrainState(said.draining, said.running_calls, said.quiet_seconds, said.queue_entries, said.queue_bytes)


@asynccontextmanager
async def node_control(target: str, credentials: Credentials | None = None) -> AsyncIterator[NodeControl]:
    """Call a node within this context; arguments and errors as in `open_channel`."""
    channel = open_channel(target, credentials)
    try:
        yield NodeControl(cache_node_pb2_grpc.CacheNodeServiceStub(channel))
    finally:
        await channel.close()
