"""Pins as a caller asks for them: of its documents, on all nodes."""

from kvquilt_codec.catalog import check_document_id
from kvquilt_codec.lifetime import check_ttl
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc.callers import caller
from kvquilt_rpc.nodes import CacheNodes


async def pinned(nodes: CacheNodes, request: pb.PinRequest, deadline: float) -> pb.PinResponse:
    """Pin documents, or unpin them. How full nodes are is told to those that may see all.

    Raises:
        BadRequestError: document ids or seconds that cannot be.
        CapacityError: more bytes would be pinned than a node allows.
        KvquiltError: a node did not do it.
    """
    documents = [check_document_id(document) for document in request.document_ids]
    if request.unpin:
        receipt = await nodes.unpin(documents, deadline=deadline)
    else:
        seconds = check_ttl(request.seconds) if request.seconds else 0.0
        receipt = await nodes.pin(documents, seconds=seconds, expiring=request.expiring, deadline=deadline)
    if not caller().may_see_all:
        return pb.PinResponse(objects=len(receipt.keys))
    return pb.PinResponse(objects=len(receipt.keys), pinned_bytes=receipt.pinned_bytes, limit_bytes=receipt.limit_bytes)
