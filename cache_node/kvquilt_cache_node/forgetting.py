"""The node's work on forgetting: whose objects a call may forget."""

from kvquilt_cache_node import bounds
from kvquilt_cache_node.scope import Scope
from kvquilt_cache_node.types import Store
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import check_namespace
from kvquilt_codec.receipts import ForgetReceipt
from kvquilt_proto.v1 import cache_node_pb2 as pb


async def forgotten(store: Store, scope: Scope, request: pb.ForgetChunksRequest) -> ForgetReceipt:
    """Forget keys and documents, or some of a namespace.

    Raises:
        BadRequestError: keys, documents or a namespace that cannot be; both.
        PermissionDeniedError: the caller may not change it.
    """
    if request.namespace:
        if request.object_keys or request.document_ids:
            raise BadRequestError("expected keys and documents, or a namespace with all that it has; got both")
        scope.check_all(check_namespace(request.namespace))
        return await store.forget_namespace(request.namespace)
    documents = bounds.documents(request.document_ids)
    owner = scope.owner(bool(documents))
    # Only objects: a profile goes when nothing is coded with it.
    keys = list(await store.stat(bounds.keys(request.object_keys), scope.writable))
    return await store.forget(keys, documents, owner, "damaged" if request.damaged else "forgotten")
