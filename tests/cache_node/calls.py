"""Raw calls of a cache node for tests: requests built by hand, so that any part of them can be wrong."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.types import KVChunk, Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc, common_pb2
from kvquilt_rpc import convert
from kvquilt_rpc.node_client import NodeClient
from tests.codec.samples import make_chunk, make_object

DEADLINE = 20.0
CAPACITY = 64 << 20
SERVICE = "kvquilt.v1.CacheNodeService"

CHUNK = make_chunk(300)
KEY, CONTAINER, META = make_object(CHUNK, Level.HIGH, "a document")


@dataclass(frozen=True)
class Node:
    """A running node and two ways to call it."""

    address: str
    channel: grpc.aio.Channel
    stub: cache_node_pb2_grpc.CacheNodeServiceStub
    client: NodeClient

    async def counters(self) -> dict[str, int]:
        return dict((await self.client.status(deadline=DEADLINE)).counters)

    async def used(self) -> tuple[int, int]:
        """Objects and bytes."""
        status = await self.client.status(deadline=DEADLINE)
        return status.objects, status.used_bytes

    async def put_raw(self, requests: Iterable[pb.PutChunkRequest]) -> pb.PutChunkResponse:
        return await self.stub.PutChunk(iter(requests), timeout=DEADLINE)


@asynccontextmanager
async def serving(store: str = "memory", path: Path | None = None, **settings: object) -> AsyncIterator[Node]:
    """A node in this process on a free port."""
    where = {} if path is None else {"path": path}
    options = {"capacity": CAPACITY, "fsync": False, "drain_seconds": 5, **where, **settings}
    async with (
        running_node(NodeSettings(port=0, store=store, **options)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        client = NodeClient(address)
        try:
            yield Node(address, channel, cache_node_pb2_grpc.CacheNodeServiceStub(channel), client)
        finally:
            await client.close()


def raw_bytes(chunk: KVChunk, layers: range | None = None) -> bytes:
    """The tensors as they travel: layer by layer, keys then values."""
    chosen = range(len(chunk.layout.layers)) if layers is None else layers
    return b"".join(chunk.keys[layer].tobytes() + chunk.values[layer].tobytes() for layer in chosen)


def container_header(key: bytes = KEY, meta: ObjectMeta = META, size: int = len(CONTAINER)) -> pb.PutChunkHeader:
    return pb.PutChunkHeader(object_key=key, meta=convert.meta_to_wire(meta), payload_bytes=size)


def tensor_header(chunk: KVChunk = CHUNK, level: Level = Level.HIGH) -> pb.PutChunkHeader:
    key, _, meta = make_object(chunk, level, "a document")
    return pb.PutChunkHeader(
        object_key=key,
        meta=convert.meta_to_wire(meta),
        payload_bytes=chunk.layout.nbytes(chunk.tokens),
        tensors=pb.TensorChunk(
            layout=convert.layout_to_wire(chunk.layout),
            token_ids=chunk.token_ids.tolist(),
            rotated_from=chunk.rotated_from,
        ),
    )


def frame(offset: int, data: bytes) -> pb.PutChunkRequest:
    return pb.PutChunkRequest(frame=common_pb2.Frame(offset=offset, data=data))


def put_requests(header: pb.PutChunkHeader, payload: bytes, step: int = 1 << 20) -> Iterator[pb.PutChunkRequest]:
    """A put as it should be: header, then frames."""
    yield pb.PutChunkRequest(header=header)
    for begin in range(0, len(payload), step):
        yield frame(begin, payload[begin : begin + step])


def answer(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str | None]:
    """Status code and the reason in ErrorInfo; `None` where gRPC itself answered."""
    status = rpc_status.from_call(error)
    if status is None:
        return error.code(), None
    assert status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    (detail,) = status.details
    assert detail.Unpack(info)
    assert info.domain == "kvquilt"
    return error.code(), info.reason
