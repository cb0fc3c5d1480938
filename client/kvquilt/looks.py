"""What a client is told of a router: its models, how it is, and what it served lately."""

from typing import TYPE_CHECKING

from kvquilt import wire
from kvquilt.served import ServedRequest, served_request
from kvquilt.states import ModelInfo, Status
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc.status import translated, well_formed

if TYPE_CHECKING:
    from kvquilt_proto.v1.router_pb2_grpc import RouterServiceAsyncStub


class Looks:
    """This part of `AsyncClient`."""

    _stub: "RouterServiceAsyncStub"

    async def models(self, *, deadline: float = 10.0) -> tuple[ModelInfo, ...]:
        """The models that the router serves."""
        async with translated():
            response = well_formed(await self._stub.ListModels(pb.ListModelsRequest(), timeout=deadline))
        return tuple(wire.model(message) for message in response.models)

    async def status(self, *, deadline: float = 10.0) -> Status:
        """How the router and its nodes are."""
        async with translated():
            return wire.status(well_formed(await self._stub.GetStatus(pb.GetStatusRequest(), timeout=deadline)))

    async def requests(
        self, request_id: str = "", *, limit: int = 32, deadline: float = 10.0
    ) -> tuple[ServedRequest, ...]:
        """The latest requests in the caller's own namespaces, the latest first; of all for callers that may see all.

        Args:
            request_id: this one only, with its chunks.
            limit: at most so many, up to 256.
            deadline: seconds.

        Raises:
            NotFoundError: there is no such request, or none that the caller may see (reason `unknown_request`).
        """
        request = pb.ListRequestsRequest(request_id=request_id, limit=limit)
        async with translated():
            response = well_formed(await self._stub.ListRequests(request, timeout=deadline))
        return tuple(map(served_request, response.requests))
