"""The node's answers to why something was missed. None of it is a use of an object."""

from collections.abc import AsyncGenerator

from kvquilt_cache_node.bounds import MAX_KEYS
from kvquilt_cache_node.types import Namespaces, Store
from kvquilt_codec import container
from kvquilt_codec.container.head import PREFIX
from kvquilt_codec.errors import BadRequestError, CapacityError, NotFoundError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.node_traces import place_from_wire, trace_to_wire

PLACES_A_MESSAGE = 64
MAX_DESCRIPTION_BYTES = 4 << 20


async def traced(
    store: Store, request: pb.TraceChunksRequest, limit: int, readable: Namespaces
) -> AsyncGenerator[pb.TraceChunksResponse, None]:
    """What there is of chunks in these namespaces, and why objects of them left; the models in the first message.

    Raises:
        BadRequestError: too many places, or digests that cannot be.
    """
    if len(request.places) > MAX_KEYS:
        raise BadRequestError(f"expected at most {MAX_KEYS} places; got {len(request.places)}")
    places = [place_from_wire(place) for place in request.places]
    for begin in range(0, max(len(places), 1), PLACES_A_MESSAGE):
        found = await store.trace(places[begin : begin + PLACES_A_MESSAGE], limit, readable)
        yield trace_to_wire(found, with_models=begin == 0)


async def description(store: Store, key: bytes, model_fingerprint: str, readable: Namespaces) -> bytes:
    """Head and token ids of an object of a model, as they are stored.

    Raises:
        NotFoundError: no such object of these namespaces.
        FingerprintMismatchError: it is of another model.
        IntegrityError: its head is damaged.
        CapacityError: it does not fit a message.
    """
    if key not in await store.stat([key], readable):
        raise NotFoundError(f"expected an object; there is none of key {key.hex()[:16]}...")
    (prefix,) = await store.get(key, [(0, PREFIX.size)])
    size = container.head_bytes(prefix)
    _check(size)
    (head_bytes,) = await store.get(key, [(0, size)])
    head = container.parse_head(head_bytes)
    head.check_fingerprint(model_fingerprint)
    size = container.description_bytes(head)
    _check(size)
    (data,) = await store.get(key, [(0, size)])
    return data


def _check(size: int) -> None:
    if size > MAX_DESCRIPTION_BYTES:
        raise CapacityError(f"expected a description of at most {MAX_DESCRIPTION_BYTES} bytes; this one has {size}")
