"""The CacheNodeService: messages to the node's work and back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from kvquilt_cache_node import bounds, forgetting, pinning, tracing
from kvquilt_cache_node.batches import Batches, header_of
from kvquilt_cache_node.draining import Drainer
from kvquilt_cache_node.file_service import FileCalls
from kvquilt_cache_node.listing import listed, readable
from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.node_status import node_status
from kvquilt_cache_node.putting import PutLimits, checked
from kvquilt_cache_node.reading import Asked, Opening, Reader
from kvquilt_cache_node.scope import Scope
from kvquilt_cache_node.tiers import Capacities
from kvquilt_cache_node.types import Store
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.fingerprints import FINGERPRINT_BYTES
from kvquilt_codec.identity import check_digest
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import convert, frames, status
from kvquilt_rpc.admission import Room
from kvquilt_rpc.callers import caller
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.framing import Framing, Packing
from kvquilt_rpc.status import Context

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["CacheNodeService"].full_name
OPERATORS = tuple(f"/{SERVICE_NAME}/{name}" for name in ("DrainNode", "GetNodeStatus"))
"""Methods by which operators look at a node: a node that is asked by them is not busy."""
MAX_VARIANTS = 64
MAX_MATCHES = 8
MAX_FINGERPRINTS = 1 << 16
CHUNKS_AT_ONCE = 128
"""Looked up in one step of the index."""
OBJECTS_A_MESSAGE = 256
"""Each is described in up to 4 KiB."""
FINGERPRINTS_A_MESSAGE = 1024
"""Looked up at once; 48 bytes a match, so that no message comes near gRPC's limit."""

_ANSWER = Framing[pb.GetChunkHeader](pb.GetChunkResponse)


class CacheNodeService(FileCalls):
    """See `cache_node.proto`."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        limits: PutLimits,
        drainer: Drainer,
        before: Capacities | None = None,
        meter: NodeMeter | None = None,
    ) -> None:
        self._meter = meter or NodeMeter()
        self._store = store
        self._before = before or {}
        self._counters = counters
        self._max_object = limits.object_bytes
        self._room = Room(limits.all_bytes, "puts", counters)
        self._drainer = drainer
        super().__init__(store, counters, self._max_object)
        self._reader = Reader(store, self.profiles, self._meter.codec)
        self._batches = Batches(store, self._reader, counters)

    @status.unary
    async def PutChunk(
        self, request_iterator: AsyncIterator[pb.PutChunkRequest], context: Context
    ) -> pb.PutChunkResponse:
        """Store one chunk."""
        header = await frames.uploaded_header(request_iterator)
        key = check_digest(header.object_key, "object key")
        meta = convert.meta_from_wire(header.meta)
        Scope(caller()).check_put(meta.namespace)
        coder = None
        if digest := meta.form.profile_digest:
            await self.profiles.require(digest, meta.model_fingerprint)
            coder = await self.profiles.coder(digest) if header.HasField("tensors") else None
        with self._room.taken(min(header.payload_bytes, self._max_object)):
            payload = await frames.uploaded_payload(request_iterator, header.payload_bytes, self._max_object)
            data = await asyncio.to_thread(checked, key, payload, header, meta, coder, self._meter.codec)
            with self._meter.putting():
                stored = await self._store.put_if_absent(key, data, meta)
        self._counters.add("puts_stored" if stored else "puts_present")
        return pb.PutChunkResponse(stored=stored, stored_bytes=len(data) if stored else 0)

    @status.streaming
    async def GetChunk(  # type: ignore[override]  # frames in their wire form, which the guard lets through
        self, request: pb.GetChunkRequest, context: Context
    ) -> AsyncGenerator[pb.GetChunkResponse | bytes, None]:
        """Serve one chunk."""
        key = check_digest(request.object_key, "object key")
        layers = range(request.layers.begin, request.layers.end) if request.HasField("layers") else None
        asked = Asked(layers, request.quality_layers or None, request.held_quality_layers, request.decoded)
        namespaces = Scope(caller()).readable
        packing = Packing(_ANSWER)
        nbytes = 0
        try:
            async with aclosing(self._reader.read(key, request.model_fingerprint, asked, namespaces)) as parts:
                async for part in parts:
                    if isinstance(part, Opening):
                        nbytes = part.nbytes
                        yield pb.GetChunkResponse(header=header_of(part))
                    else:
                        for message in packing.take(part):
                            yield message
        except IntegrityError as error:
            if error.reason != "profile_damaged":
                self._counters.add("objects_damaged")
            raise
        for message in packing.finish():
            yield message
        self._counters.add("gets")
        self._counters.add("bytes_sent", nbytes)

    @status.streaming
    async def GetChunks(  # type: ignore[override]  # messages in their wire form
        self, request: pb.GetChunksRequest, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """Serve several chunks."""
        async with aclosing(self._batches.get(request, Scope(caller()).readable)) as messages:
            async for message in messages:
                yield message

    @status.unary
    async def StatChunks(self, request: pb.StatChunksRequest, context: Context) -> pb.StatChunksResponse:
        """Tell which objects exist."""
        self._counters.add("lookups")
        found = await self._store.stat(bounds.keys(request.object_keys), Scope(caller()).readable)
        return pb.StatChunksResponse(objects=[convert.info_to_wire(info) for info in found.values()])

    @status.streaming
    async def FindVariants(
        self, request: pb.FindVariantsRequest, context: Context
    ) -> AsyncGenerator[pb.FindVariantsResponse, None]:
        """Tell which variants of chunks exist."""
        keys = bounds.keys(request.chunk_keys, "chunk key")
        prefix = check_digest(request.prefix_digest, "prefix digest")
        limit = bounds.limit(request.limit, 16, MAX_VARIANTS)
        readable = Scope(caller()).readable
        self._counters.add("lookups")
        for begin in range(0, len(keys), CHUNKS_AT_ONCE):
            batch = keys[begin : begin + CHUNKS_AT_ONCE]
            found = await self._store.find_variants(batch, request.model_fingerprint, prefix, limit, readable)
            infos = [convert.info_to_wire(info) for variants in found.values() for info in variants]
            for first in range(0, len(infos), OBJECTS_A_MESSAGE):
                yield pb.FindVariantsResponse(objects=infos[first : first + OBJECTS_A_MESSAGE])

    @status.streaming
    async def FindChunks(
        self, request: pb.FindChunksRequest, context: Context
    ) -> AsyncGenerator[pb.FindChunksResponse, None]:
        """Tell which chunks share fingerprints with a text."""
        asked = request.fingerprints
        limit = bounds.limit(request.limit, MAX_MATCHES, MAX_MATCHES)
        if len(asked) > MAX_FINGERPRINTS or any(len(fingerprint) != FINGERPRINT_BYTES for fingerprint in asked):
            raise BadRequestError(
                f"expected at most {MAX_FINGERPRINTS} fingerprints of {FINGERPRINT_BYTES} bytes each; "
                f"got {len(asked)}, or others"
            )
        readable = Scope(caller()).readable
        # In batches: others want the index too.
        for begin in range(0, len(asked), FINGERPRINTS_A_MESSAGE):
            batch = asked[begin : begin + FINGERPRINTS_A_MESSAGE]
            matches = await self._store.find_chunks(batch, request.model_fingerprint, limit, readable)
            if matches:
                yield pb.FindChunksResponse(
                    matches=[convert.match_to_wire(replace(m, fingerprint=begin + m.fingerprint)) for m in matches]
                )

    @status.unary
    async def TouchChunks(self, request: pb.TouchChunksRequest, context: Context) -> pb.TouchChunksResponse:
        """Let documents hold objects, and count a use."""
        keys, documents = bounds.keys(request.object_keys), bounds.documents(request.document_ids)
        scope = Scope(caller())
        found = await self._store.touch(keys, documents, scope.writable if documents else scope.readable)
        return pb.TouchChunksResponse(found_keys=found)

    @status.unary
    async def PinChunks(self, request: pb.PinChunksRequest, context: Context) -> pb.PinChunksResponse:
        """Keep objects from eviction, or do so no more."""
        return await pinning.pinned(self._store, Scope(caller()), request)

    @status.unary
    async def ForgetChunks(self, request: pb.ForgetChunksRequest, context: Context) -> pb.ForgetChunksResponse:
        """Delete objects."""
        receipt = await forgetting.forgotten(self._store, Scope(caller()), request)
        self._counters.add("objects_forgotten", len(receipt.deleted))
        return pb.ForgetChunksResponse(
            deleted_keys=receipt.deleted,
            deleted_bytes=receipt.deleted_bytes,
            kept_shared=receipt.kept_shared,
            pending=receipt.pending,
            more=bool(request.namespace) and len(receipt.deleted) > 0,
        )

    @status.streaming
    async def ListObjects(
        self, request: pb.ListObjectsRequest, context: Context
    ) -> AsyncGenerator[pb.ListObjectsResponse, None]:
        """List the objects that the caller may know of."""
        async with aclosing(listed(self._store, readable(caller(), request.namespace))) as messages:
            async for message in messages:
                yield message

    @status.streaming
    async def TraceChunks(
        self, request: pb.TraceChunksRequest, context: Context
    ) -> AsyncGenerator[pb.TraceChunksResponse, None]:
        """Tell what there is of chunks, and why objects of them left."""
        limit = bounds.limit(request.limit, 16, MAX_VARIANTS)
        async with aclosing(tracing.traced(self._store, request, limit, Scope(caller()).readable)) as messages:
            async for message in messages:
                yield message

    @status.unary
    async def DescribeChunk(self, request: pb.DescribeChunkRequest, context: Context) -> pb.DescribeChunkResponse:
        """Serve what a stored chunk says of its text."""
        key, readable = check_digest(request.object_key, "object key"), Scope(caller()).readable
        data = await tracing.description(self._store, key, request.model_fingerprint, readable)
        return pb.DescribeChunkResponse(description=data)

    @status.unary
    async def DrainNode(self, request: pb.DrainNodeRequest, context: Context) -> pb.DrainNodeResponse:
        """Take the node out of service, or back."""
        return await self._drainer.act(request.action, caller(), context.peer())

    @status.unary
    async def GetNodeStatus(self, request: pb.GetNodeStatusRequest, context: Context) -> pb.GetNodeStatusResponse:
        """Tell how the node is."""
        return await node_status(self._store, self._counters, self._before, caller().namespace)
