"""All objects of a cache node, as `NodeClient.objects` lists them."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from kvquilt_codec.catalog import ObjectInfo, check_document_id
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.identity import DIGEST_BYTES
from kvquilt_proto.v1 import cache_node_pb2, cache_node_pb2_grpc
from kvquilt_rpc import convert
from kvquilt_rpc.status import translated, well_formed


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of an inventory.

    Attributes:
        info: without sources and document ids.
        documents: the first 1,024 by name of those that hold it.
        document_count: how many there are.
    """

    info: ObjectInfo
    documents: tuple[str, ...]
    document_count: int


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A part of an inventory: some objects, and the kind of store that has them."""

    store: str
    objects: tuple[ListedObject, ...]


class NodeObjects:
    """Lists the objects of a cache node."""

    def __init__(self, stub: "cache_node_pb2_grpc.CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def pages(self, namespace: str = "", *, deadline: float) -> AsyncGenerator[ListedPage, None]:
        """All objects that the caller may know of, page by page, in no particular order.

        What is stored or removed while the list runs may be in it or not; all else is, once; of an index in Redis that
        grows or shrinks meanwhile perhaps more than once.

        Args:
            namespace: of this one only; empty: of all that are the caller's own, for an operator of all.
            deadline: seconds for the whole list.

        Raises:
            PermissionDeniedError: a namespace that is not the caller's.
            IntegrityError: the node lists what cannot be.
        """
        request = cache_node_pb2.ListObjectsRequest(namespace=namespace)
        async with translated():
            async for answer in self._stub.ListObjects(request, timeout=deadline):
                message = well_formed(answer)
                yield ListedPage(message.store, tuple(map(_listed, message.objects)))


def _listed(message: cache_node_pb2.ListedObject) -> ListedObject:
    info = convert.info_from_wire(message.info)
    try:
        documents = tuple(check_document_id(document) for document in message.document_ids)
    except BadRequestError as error:
        raise IntegrityError(f"expected document ids of an object; {error}") from None
    if len(info.key) != DIGEST_BYTES or message.document_count < len(documents):
        raise IntegrityError("expected an object with a key, and as many documents as it counts; got another")
    return ListedObject(info, documents, message.document_count)
