"""The CacheNodeService: messages to the node's work and back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import kvquilt_kernels
from kvquilt_cache_node import objects
from kvquilt_cache_node.types import Store
from kvquilt_codec import catalog
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.identity import check_digest
from kvquilt_codec.types import check_token_ids
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc import convert, frames, status
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.status import Context
from kvquilt_rpc.version import VERSION

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["CacheNodeService"].full_name
MAX_KEYS = 4096


class CacheNodeService(cache_node_pb2_grpc.CacheNodeServiceServicer):
    """See `cache_node.proto`."""

    def __init__(self, store: Store, counters: Counters, max_object_bytes: int) -> None:
        self._store = store
        self._counters = counters
        self._max_object = max_object_bytes

    @status.unary
    async def PutChunk(
        self, request_iterator: AsyncIterator[pb.PutChunkRequest], context: Context
    ) -> pb.PutChunkResponse:
        """Store one chunk."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("header"):
            raise BadRequestError("expected a header first; the stream has none")
        header = first.header
        key = check_digest(header.object_key, "object key")
        meta = convert.meta_from_wire(header.meta)
        reader = frames.FrameReader(header.payload_bytes, self._max_object)
        payload = bytearray()  # grows with what really comes: a declared size is only a claim
        async for request in request_iterator:
            if not request.HasField("frame"):
                raise BadRequestError("expected frames after the header; got something else")
            payload += reader.take(request.frame)
        reader.finish()
        data = await asyncio.to_thread(_checked, key, bytes(payload), header, meta)
        stored = await self._store.put_if_absent(key, data, meta)
        self._counters.add("puts_stored" if stored else "puts_present")
        return pb.PutChunkResponse(stored=stored, stored_bytes=len(data) if stored else 0)

    @status.streaming
    async def GetChunk(
        self, request: pb.GetChunkRequest, context: Context
    ) -> AsyncGenerator[pb.GetChunkResponse, None]:
        """Serve one chunk."""
        key = check_digest(request.object_key, "object key")
        layers = None
        if request.HasField("layers"):
            layers = range(request.layers.begin, request.layers.end)
            if not layers:
                raise BadRequestError(f"expected a range of at least one layer; got {layers}")
        try:
            reading = await objects.read(self._store, key, request.model_fingerprint, layers, request.decoded)
        except IntegrityError:
            self._counters.add("objects_damaged")
            raise
        header = reading.head.header
        yield pb.GetChunkResponse(
            header=pb.GetChunkHeader(
                payload_bytes=reading.nbytes,
                container_bytes=reading.head.total_bytes,
                layout=None if reading.layout is None else convert.layout_to_wire(reading.layout),
                token_count=header.tokens,
                rotated_from=header.rotated_from,
            )
        )
        for frame in frames.split(reading.pieces):
            yield pb.GetChunkResponse(frame=frame)
        self._counters.add("gets")
        self._counters.add("bytes_sent", reading.nbytes)

    @status.unary
    async def StatChunks(self, request: pb.StatChunksRequest, context: Context) -> pb.StatChunksResponse:
        """Tell which objects exist."""
        found = await self._store.stat(_keys(request.object_keys))
        return pb.StatChunksResponse(objects=[convert.info_to_wire(info) for info in found.values()])

    @status.unary
    async def TouchChunks(self, request: pb.TouchChunksRequest, context: Context) -> pb.TouchChunksResponse:
        """Let documents hold objects, and count a use."""
        found = await self._store.touch(_keys(request.object_keys), _documents(request.document_ids))
        return pb.TouchChunksResponse(found_keys=found)

    @status.unary
    async def ForgetChunks(self, request: pb.ForgetChunksRequest, context: Context) -> pb.ForgetChunksResponse:
        """Delete objects."""
        receipt = await self._store.forget(_keys(request.object_keys), _documents(request.document_ids))
        self._counters.add("objects_forgotten", len(receipt.deleted))
        return pb.ForgetChunksResponse(
            deleted_keys=receipt.deleted, deleted_bytes=receipt.deleted_bytes, kept_shared=receipt.kept_shared
        )

    @status.unary
    async def GetNodeStatus(self, request: pb.GetNodeStatusRequest, context: Context) -> pb.GetNodeStatusResponse:
        """Tell how the node is."""
        usage = await self._store.usage()
        return pb.GetNodeStatusResponse(
            version=VERSION,
            store=self._store.name,
            objects=usage.objects,
            used_bytes=usage.used_bytes,
            capacity_bytes=usage.capacity_bytes,
            kernels=kvquilt_kernels.default().name,
            counters=self._counters.snapshot(),
        )


def _keys(keys: Sequence[bytes]) -> list[bytes]:
    if len(keys) > MAX_KEYS:
        raise BadRequestError(f"expected at most {MAX_KEYS} keys; got {len(keys)}")
    return [check_digest(key, "object key") for key in keys]


def _documents(documents: Sequence[str]) -> list[str]:
    if len(documents) > MAX_KEYS:
        raise BadRequestError(f"expected at most {MAX_KEYS} document ids; got {len(documents)}")
    return [catalog.check_document_id(document) for document in documents]


def _checked(key: bytes, payload: bytes, header: pb.PutChunkHeader, meta: catalog.ObjectMeta) -> bytes:
    """The container to store: the payload itself after checks, or the encoded tensors."""
    if not header.HasField("tensors"):
        objects.check_container(key, payload, meta)
        return payload
    tensors = header.tensors
    identity = ChunkIdentity(
        meta.model_fingerprint,
        check_digest(tensors.chunk_key, "chunk key"),
        meta.variant,
        check_digest(tensors.context_digest, "context digest"),
        catalog.to_attributes(meta),
    )
    rotated_from = tensors.rotated_from if tensors.HasField("rotated_from") else None
    layout = convert.layout_from_wire(tensors.layout)
    return objects.encode_tensors(
        key, payload, layout, check_token_ids(tensors.token_ids), rotated_from, identity, meta
    )
