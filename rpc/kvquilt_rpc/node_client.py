"""The stub of a cache node in the codec's vocabulary: what routers and tools call."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvquilt_codec.catalog import ChunkMatch, ObjectInfo, ObjectMeta
from kvquilt_codec.container import HeldContainer
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.receipts import ForgetReceipt
from kvquilt_codec.types import KVChunk
from kvquilt_proto.v1 import cache_node_pb2, cache_node_pb2_grpc, common_pb2
from kvquilt_rpc import convert, frames
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.framing import Framing
from kvquilt_rpc.holding import extended, held_of
from kvquilt_rpc.node_batches import NodeBatches, Piece
from kvquilt_rpc.node_files import NodeAudits, NodeGates, NodeProfiles
from kvquilt_rpc.node_objects import NodeObjects
from kvquilt_rpc.node_pins import NodePins
from kvquilt_rpc.node_traces import NodeTraces
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.status import translated, well_formed

SERVICE_NAME = cache_node_pb2.DESCRIPTOR.services_by_name["CacheNodeService"].full_name
STAT_BATCH = 1024  # an object is described in up to 4 KiB, and a message holds 8 MiB

_ANSWERS = Framing[cache_node_pb2.GetChunkHeader](cache_node_pb2.GetChunkResponse)


class NodeClient:
    """Calls one cache node. Every call has a deadline in seconds; every failure is an error of our tree.

    Arguments and what is raised are as in `open_channel`.

    Attributes:
        target: address of the node.
        profiles: calls about its codec profiles.
        gates: calls about its gates.
        pins: calls that keep objects from eviction.
        batches: calls that read several objects.
        objects: calls about all of its objects.
        traces: calls that find out why something was missed.
    """

    def __init__(self, target: str, credentials: Credentials | None = None, server_name: str = "") -> None:
        self.target = target
        self._channel = open_channel(target, credentials, server_name)
        self._stub = cache_node_pb2_grpc.CacheNodeServiceStub(self._channel)
        self._get_chunk: grpc.aio.UnaryStreamMultiCallable[
            cache_node_pb2.GetChunkRequest, frames.Part[cache_node_pb2.GetChunkHeader]
        ] = self._channel.unary_stream(
            f"/{SERVICE_NAME}/GetChunk",
            cache_node_pb2.GetChunkRequest.SerializeToString,
            _ANSWERS.parsed,
        )
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self.profiles = NodeProfiles(self._stub)
        self.gates = NodeGates(self._stub)
        self.audits = NodeAudits(self._stub)
        self.pins = NodePins(self._stub)
        self.batches = NodeBatches(self._channel, SERVICE_NAME)
        self.objects = NodeObjects(self._stub)
        self.traces = NodeTraces(self._stub)

    async def close(self) -> None:
        """Close the channel; running calls fail."""
        await self._channel.close()

    async def put(self, key: bytes, container: bytes, meta: ObjectMeta, *, deadline: float) -> bool:
        """Store an encoded chunk, acting in its namespace; `False` if the object was there already."""
        header = cache_node_pb2.PutChunkHeader(
            object_key=key, meta=convert.meta_to_wire(meta), payload_bytes=len(container)
        )
        with acting_in(meta.namespace):
            return await self._put(header, [container], deadline)

    async def put_tensors(self, key: bytes, chunk: KVChunk, meta: ObjectMeta, *, deadline: float) -> bool:
        """Send raw tensors, which the node encodes as `meta.form`; `False` if the object was there already."""
        layout = chunk.layout
        header = cache_node_pb2.PutChunkHeader(
            object_key=key,
            meta=convert.meta_to_wire(meta),
            payload_bytes=layout.nbytes(chunk.tokens),
            tensors=cache_node_pb2.TensorChunk(
                layout=convert.layout_to_wire(layout),
                token_ids=chunk.token_ids.tolist(),
                rotated_from=chunk.rotated_from,
            ),
        )
        buffers = [tensor.tobytes() for layer in zip(chunk.keys, chunk.values, strict=True) for tensor in layer]
        with acting_in(meta.namespace):
            return await self._put(header, buffers, deadline)

    async def _put(self, header: cache_node_pb2.PutChunkHeader, buffers: Sequence[bytes], deadline: float) -> bool:
        def requests() -> Iterator[cache_node_pb2.PutChunkRequest]:
            yield cache_node_pb2.PutChunkRequest(header=header)
            for frame in frames.split(buffers):
                yield cache_node_pb2.PutChunkRequest(frame=frame)

        async with translated():
            response = well_formed(await self._stub.PutChunk(requests(), timeout=deadline))
        return response.stored

    async def get(
        self,
        key: bytes,
        model_fingerprint: str,
        *,
        deadline: float,
        layers: range | None = None,
        decoded: bool = False,
        quality_layers: int = 0,
        held: int = 0,
    ) -> AsyncGenerator[cache_node_pb2.GetChunkHeader | bytes, None]:
        """Stream an object: first its header, then its bytes piece by piece, checked for order and size.

        Args:
            key: of the object.
            model_fingerprint: of the caller's model.
            deadline: seconds.
            layers: these only.
            decoded: raw tensors instead of the container.
            quality_layers: how many, the coarsest first; 0 is all.
            held: how many of them the caller has already; they are left out.
        """
        request = cache_node_pb2.GetChunkRequest(
            object_key=key,
            model_fingerprint=model_fingerprint,
            decoded=decoded,
            layers=None if layers is None else common_pb2.LayerRange(begin=layers.start, end=layers.stop),
            quality_layers=quality_layers,
            held_quality_layers=held,
        )
        reader: frames.FrameReader | None = None
        async with translated():
            async for answer in self._get_chunk(request, timeout=deadline):
                response = well_formed(answer)
                if reader is not None:
                    yield reader.take(response.frame)
                elif not response.HasField("header"):
                    raise IntegrityError("expected a header first; the node sent a frame")
                else:
                    reader = frames.FrameReader(response.header.payload_bytes, frames.MAX_OBJECT_BYTES)
                    yield response.header
        if reader is None:
            raise IntegrityError("expected a header; the node's stream was empty")
        reader.finish()

    async def read(
        self,
        key: bytes,
        model_fingerprint: str,
        *,
        quality_layers: int,
        deadline: float,
        received: Callable[[Piece], None] | None = None,
    ) -> HeldContainer:
        """Read an object, or its coarser quality layers only, and keep the bytes, so that it can be upgraded.

        Args:
            key: of the object.
            model_fingerprint: of the caller's model.
            quality_layers: how many, the coarsest first; 0 is all.
            deadline: seconds.
            received: told of what comes: the header, then the bytes.
        """
        pieces = self.get(key, model_fingerprint, deadline=deadline, quality_layers=quality_layers)
        return await held_of(pieces, model_fingerprint, quality_layers, received)

    async def upgrade(
        self,
        key: bytes,
        model_fingerprint: str,
        held: HeldContainer,
        *,
        quality_layers: int,
        deadline: float,
        received: Callable[[Piece], None] | None = None,
    ) -> HeldContainer:
        """A finer version of what `read` gave, by its arguments: only head and missing sections are transferred.

        Raises:
            IntegrityError: the object is another one meanwhile; read it as a whole.
            BadRequestError: no more quality layers than are held, or more than there are.
        """
        known = held.quality_layers
        pieces = self.get(key, model_fingerprint, deadline=deadline, quality_layers=quality_layers, held=known)
        return await extended(held, pieces, quality_layers, received)

    async def stat(self, keys: Sequence[bytes], *, deadline: float) -> dict[bytes, ObjectInfo]:
        """The objects that exist among `keys`."""
        found: dict[bytes, ObjectInfo] = {}
        for begin in range(0, len(keys), STAT_BATCH):
            request = cache_node_pb2.StatChunksRequest(object_keys=keys[begin : begin + STAT_BATCH])
            async with translated():
                response = well_formed(await self._stub.StatChunks(request, timeout=deadline))
            found |= {item.object_key: convert.info_from_wire(item) for item in response.objects}
        return found

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        *,
        deadline: float,
        limit: int = 16,
    ) -> dict[bytes, list[ObjectInfo]]:
        """Objects of these chunks, of this model and after this shared prefix, by chunk key.

        At most `limit` (1 to 64) of each, the most recently used first; chunk keys without any are left out.
        """
        found: dict[bytes, list[ObjectInfo]] = {}
        asked = set(chunk_keys)
        for begin in range(0, len(chunk_keys), STAT_BATCH):
            request = cache_node_pb2.FindVariantsRequest(
                chunk_keys=chunk_keys[begin : begin + STAT_BATCH],
                model_fingerprint=model_fingerprint,
                prefix_digest=prefix_digest,
                limit=limit,
            )
            async with translated():
                async for answer in self._stub.FindVariants(request, timeout=deadline):
                    for item in well_formed(answer).objects:
                        info = convert.info_from_wire(item)
                        known = found.setdefault(info.meta.chunk_key, [])
                        _check_answer(info.meta.chunk_key in asked and len(known) < limit)
                        known.append(info)
        return found

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, *, deadline: float, limit: int = 8
    ) -> list[ChunkMatch]:
        """Chunks of this model that have these fingerprints (at most 65,536), at most `limit` (1 to 8) of each.

        What comes is a guess: compare the chunks' tokens.
        """
        request = cache_node_pb2.FindChunksRequest(
            fingerprints=fingerprints, model_fingerprint=model_fingerprint, limit=limit
        )
        matches: list[ChunkMatch] = []
        async with translated():
            async for answer in self._stub.FindChunks(request, timeout=deadline):
                matches += map(convert.match_from_wire, well_formed(answer).matches)
                _check_answer(len(matches) <= limit * len(fingerprints))
        _check_answer(all(match.fingerprint < len(fingerprints) for match in matches))
        return matches

    async def touch(self, keys: Sequence[bytes], documents: Sequence[str], *, deadline: float) -> set[bytes]:
        """Let documents hold objects, and count a use of each; returns the keys that exist."""
        request = cache_node_pb2.TouchChunksRequest(object_keys=keys, document_ids=documents)
        async with translated():
            response = well_formed(await self._stub.TouchChunks(request, timeout=deadline))
        return set(response.found_keys)

    async def forget(
        self, *, keys: Sequence[bytes] = (), documents: Sequence[str] = (), deadline: float, damaged: bool = False
    ) -> ForgetReceipt:
        """Delete objects by key, and by document (an object that other documents hold too stays).

        `damaged` says that they go because what was read of them was damaged.
        """
        request = cache_node_pb2.ForgetChunksRequest(object_keys=keys, document_ids=documents, damaged=damaged)
        async with translated():
            response = well_formed(await self._stub.ForgetChunks(request, timeout=deadline))
        return convert.receipt_from_wire(response)

    async def forget_namespace(self, namespace: str, *, deadline: float) -> ForgetReceipt:
        """Delete all objects of a namespace, some thousands a call; `deadline` is of each call."""
        request = cache_node_pb2.ForgetChunksRequest(namespace=namespace)
        receipt = ForgetReceipt((), 0, 0)
        more = True
        while more:
            async with translated():
                with acting_in(namespace):
                    response = well_formed(await self._stub.ForgetChunks(request, timeout=deadline))
            _check_answer(not response.more or len(response.deleted_keys) > 0)
            receipt += convert.receipt_from_wire(response)
            more = response.more
        return receipt

    async def serving(self, *, deadline: float) -> bool:
        """Whether the node takes calls, by the standard health service; `False` while it drains."""
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        async with translated():
            response = well_formed(await self._health.Check(request, timeout=deadline))
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def status(self, *, deadline: float) -> cache_node_pb2.GetNodeStatusResponse:
        """How the node is."""
        async with translated():
            return well_formed(await self._stub.GetNodeStatus(cache_node_pb2.GetNodeStatusRequest(), timeout=deadline))


def _check_answer(holds: bool) -> None:
    if not holds:
        raise IntegrityError("expected an answer to what was asked; the node answers something else")
