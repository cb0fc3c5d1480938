"""The node's work on pins: whose objects a call may pin, and what it is told."""

from kvquilt_cache_node import bounds
from kvquilt_cache_node.scope import Scope
from kvquilt_cache_node.types import Store
from kvquilt_codec.lifetime import check_ttl
from kvquilt_proto.v1 import cache_node_pb2 as pb


async def pinned(store: Store, scope: Scope, request: pb.PinChunksRequest) -> pb.PinChunksResponse:
    """Pin objects, or unpin them.

    Raises:
        BadRequestError: keys, documents or seconds that cannot be.
        PermissionDeniedError: the caller may only read there.
        CapacityError: more bytes would be pinned than may be.
    """
    keys, documents = bounds.keys(request.object_keys), bounds.documents(request.document_ids)
    owner = scope.owner(bool(documents))
    if request.unpin:
        receipt = await store.unpin(keys, documents, owner)
    else:
        seconds = check_ttl(request.seconds) if request.seconds else None
        receipt = await store.pin(keys, documents, owner, seconds=seconds, expiring=request.expiring)
    return pb.PinChunksResponse(
        object_keys=receipt.keys, pinned_bytes=receipt.pinned_bytes, limit_bytes=receipt.limit_bytes
    )
