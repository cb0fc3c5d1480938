"""Calls of a cache node that find out why something was missed; none of them is a use of an object."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.container import Description, describe
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import check_hex_digest
from kvquilt_codec.traces import DEPARTURES, ChunkPlace, Departed, Trace
from kvquilt_proto.v1 import cache_node_pb2
from kvquilt_rpc import convert
from kvquilt_rpc.status import translated, well_formed

if TYPE_CHECKING:
    from kvquilt_proto.v1.cache_node_pb2_grpc import CacheNodeServiceAsyncStub

_BATCH = 1024


class NodeTraces:
    """What a node can tell of chunks that a look-up did not find."""

    def __init__(self, stub: "CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def trace(self, places: Sequence[ChunkPlace], *, deadline: float, limit: int = 16) -> Trace:
        """What there is of chunks, whatever preceded them, and why objects of them left.

        Args:
            places: what was looked up.
            deadline: seconds for each 1,024 of them.
            limit: most objects of each chunk key, 1 to 64.

        Raises:
            IntegrityError: an answer to something else.
        """
        objects: dict[bytes, list[ObjectInfo]] = {}
        departed: dict[ChunkPlace, Departed] = {}
        models: set[str] = set()
        for begin in range(0, max(len(places), 1), _BATCH):
            batch = places[begin : begin + _BATCH]
            request = cache_node_pb2.TraceChunksRequest(places=map(place_to_wire, batch), limit=limit)
            async with translated():
                async for answer in self._stub.TraceChunks(request, timeout=deadline):
                    message = well_formed(answer)
                    for item in message.objects:
                        info = convert.info_from_wire(item)
                        objects.setdefault(info.meta.chunk_key, []).append(info)
                    departed |= dict(map(_departure, message.departures))
                    models |= {_fingerprint(model) for model in message.model_fingerprints}
        return _checked(Trace(objects, departed, frozenset(models)), places, limit)

    async def describe(self, object_key: bytes, model_fingerprint: str, *, deadline: float) -> Description:
        """What a stored chunk says of its text.

        Raises:
            NotFoundError: no such object.
            FingerprintMismatchError: it is of another model than the given one.
            IntegrityError: damaged.
        """
        request = cache_node_pb2.DescribeChunkRequest(object_key=object_key, model_fingerprint=model_fingerprint)
        async with translated():
            response = well_formed(await self._stub.DescribeChunk(request, timeout=deadline))
        return await asyncio.to_thread(describe, response.description, model_fingerprint)


def place_to_wire(place: ChunkPlace) -> cache_node_pb2.ChunkPlace:
    """Encode a place."""
    return cache_node_pb2.ChunkPlace(chunk_key=place.chunk_key, prefix_digest=place.prefix_digest)


def place_from_wire(message: cache_node_pb2.ChunkPlace) -> ChunkPlace:
    """Decode a place.

    Raises:
        BadRequestError: digests that cannot be.
    """
    return ChunkPlace(message.chunk_key, message.prefix_digest)


def trace_to_wire(trace: Trace, *, with_models: bool) -> cache_node_pb2.TraceChunksResponse:
    """Encode what a store knows of chunks."""
    return cache_node_pb2.TraceChunksResponse(
        objects=[convert.info_to_wire(info) for infos in trace.objects.values() for info in infos],
        departures=[
            cache_node_pb2.Departure(place=place_to_wire(place), reason=departed.reason, unix_seconds=departed.at)
            for place, departed in trace.departed.items()
        ],
        model_fingerprints=sorted(trace.models) if with_models else (),
    )


def _departure(message: cache_node_pb2.Departure) -> tuple[ChunkPlace, Departed]:
    if message.reason not in DEPARTURES:
        raise IntegrityError(f"expected a departure for one of {DEPARTURES}; got {message.reason[:40]!r}")
    try:
        return place_from_wire(message.place), Departed(message.reason, message.unix_seconds)
    except BadRequestError as error:
        raise IntegrityError(f"expected a well-formed departure; {error}") from None


def _fingerprint(text: str) -> str:
    try:
        return check_hex_digest(text, "model fingerprint")
    except BadRequestError as error:
        raise IntegrityError(f"expected fingerprints of models; {error}") from None


def _checked(trace: Trace, places: Sequence[ChunkPlace], limit: int) -> Trace:
    asked = set(places)
    keys = {place.chunk_key for place in asked}
    own = trace.objects.keys() <= keys and trace.departed.keys() <= asked
    if not own or any(len(infos) > limit for infos in trace.objects.values()):
        raise IntegrityError("expected an answer to what was asked; the node answers something else")
    return trace
