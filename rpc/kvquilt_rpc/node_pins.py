"""Calls of a cache node that keep objects from eviction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvquilt_codec.receipts import PinReceipt
from kvquilt_proto.v1 import cache_node_pb2
from kvquilt_rpc.status import translated, well_formed

if TYPE_CHECKING:
    from kvquilt_proto.v1.cache_node_pb2_grpc import CacheNodeServiceAsyncStub


class NodePins:
    """See `NodeClient`."""

    def __init__(self, stub: "CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def pin(
        self,
        *,
        keys: Sequence[bytes] = (),
        documents: Sequence[str] = (),
        seconds: float = 0.0,
        expiring: bool = False,
        deadline: float,
    ) -> PinReceipt:
        """Keep objects from eviction, by key and by document, for so many seconds (0: for good).

        Args:
            keys: of objects.
            documents: whose objects of now.
            seconds: after which the pin ends.
            expiring: their times to live go on; else they end with the pin at the earliest.
            deadline: seconds.

        Raises:
            CapacityError: more bytes would be pinned than the node allows.
        """
        request = cache_node_pb2.PinChunksRequest(
            object_keys=keys, document_ids=documents, seconds=seconds, expiring=expiring
        )
        return await self._pin(request, deadline)

    async def unpin(self, *, keys: Sequence[bytes] = (), documents: Sequence[str] = (), deadline: float) -> PinReceipt:
        """Pin objects no more."""
        request = cache_node_pb2.PinChunksRequest(object_keys=keys, document_ids=documents, unpin=True)
        return await self._pin(request, deadline)

    async def _pin(self, request: cache_node_pb2.PinChunksRequest, deadline: float) -> PinReceipt:
        async with translated():
            response = well_formed(await self._stub.PinChunks(request, timeout=deadline))
        return PinReceipt(tuple(response.object_keys), response.pinned_bytes, response.limit_bytes)
