"""Several chunks in one stream: its messages, and the stream as a client reads it.

Every call costs about as much as a chunk of a few hundred kilobytes: docs/decisions/0022-batched-gets.md.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import grpc

from kvquilt_codec.errors import IntegrityError, KvquiltError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import status
from kvquilt_rpc.frames import MAX_OBJECT_BYTES, FrameLike, FrameReader
from kvquilt_rpc.framing import Framing, frame_at, read_varint
from kvquilt_rpc.status import translated, well_formed

MAX_CHUNKS = 256
"""In one call."""
METHOD = "GetChunks"
FRAMING = Framing[pb.GetChunkHeader](pb.GetChunksResponse)

_CHUNK, _HEADER, _FAILURE, _FRAME = (
    bytes([pb.GetChunksResponse.DESCRIPTOR.fields_by_name[name].number << 3 | wire_type])
    for name, wire_type in (("chunk", 0), ("header", 2), ("failure", 2), ("frame", 2))
)

Piece = pb.GetChunkHeader | bytes
"""Of a chunk: first its header, then its bytes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A chunk that is asked for.

    Attributes:
        key: of the object.
        quality_layers: how many, the coarsest first; 0 is all.
    """

    key: bytes
    quality_layers: int = 0


@dataclass(frozen=True, slots=True)
class BatchPart:
    """A message of the stream."""

    chunk: int
    header: pb.GetChunkHeader | None
    failure: pb.ChunkFailure | None
    frame: FrameLike | None


def parsed(data: bytes) -> BatchPart:
    """A message from its wire form; its frame is cut off and not parsed, as in `framing`.

    Raises:
        DecodeError: it is no such message.
    """
    at = 0
    if data.startswith(_CHUNK):
        _, at = read_varint(data, 1)
    for tag in (_HEADER, _FAILURE):
        if data.startswith(tag, at):
            length, at = read_varint(data, at + 1)
            at += max(0, length)
    frame: FrameLike | None = frame_at(data, _FRAME, at)
    message = pb.GetChunksResponse.FromString(data if frame is None else data[:at])
    if frame is None and message.HasField("frame"):
        frame = message.frame
    return BatchPart(
        message.chunk,
        message.header if message.HasField("header") else None,
        message.failure if message.HasField("failure") else None,
        frame,
    )


class NodeBatches:
    """Reads batches from one cache node.

    Args:
        channel: to the node.
        service: its full name.
    """

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        self._call: grpc.aio.UnaryStreamMultiCallable[pb.GetChunksRequest, BatchPart] = channel.unary_stream(
            f"/{service}/{METHOD}", pb.GetChunksRequest.SerializeToString, parsed
        )

    async def get(
        self, wanted: Sequence[Wanted], model_fingerprint: str, *, deadline: float
    ) -> AsyncGenerator[tuple[int, Piece | KvquiltError | None], None]:
        """Stream chunks: places in `wanted`, each with a piece, or at last with `None`, or with why it does not come.

        Args:
            wanted: at most `MAX_CHUNKS`.
            model_fingerprint: of the caller's model.
            deadline: seconds.

        Raises:
            KvquiltError: of the call as a whole; chunks that have not come by then do not come.
        """
        request = pb.GetChunksRequest(
            chunks=[pb.WantedChunk(object_key=one.key, quality_layers=one.quality_layers) for one in wanted],
            model_fingerprint=model_fingerprint,
        )
        waiting: dict[int, FrameReader | None] = dict.fromkeys(range(len(wanted)))
        async with translated():
            async for answer in self._call(request, timeout=deadline):
                part = well_formed(answer)
                if part.chunk not in waiting:
                    raise IntegrityError("expected chunks that were asked for and have not come; got another one")
                if (failure := part.failure) is not None:
                    del waiting[part.chunk]
                    yield part.chunk, status.from_code(failure.status_code, failure.message, failure.reason)
                    continue
                for piece in _pieces(part, waiting):
                    yield part.chunk, piece
                reader = waiting[part.chunk]
                if reader is not None and reader.received == reader.payload_bytes:
                    del waiting[part.chunk]
                    yield part.chunk, None
        if waiting:
            raise IntegrityError(f"expected {len(wanted)} chunks; the node's stream ended {len(waiting)} short")


def _pieces(part: BatchPart, waiting: dict[int, FrameReader | None]) -> Sequence[Piece]:
    """What a message holds of a chunk.

    Raises:
        IntegrityError: not what should come next.
        BadRequestError: a chunk of more than 4 GiB.
    """
    found: list[Piece] = []
    if part.header is not None:
        if waiting[part.chunk] is not None:
            raise IntegrityError("expected one header of a chunk; the node sent another")
        waiting[part.chunk] = FrameReader(part.header.payload_bytes, MAX_OBJECT_BYTES)
        found.append(part.header)
    reader = waiting[part.chunk]
    if reader is None:
        raise IntegrityError("expected a chunk's header first; the node sent something else")
    if part.frame is not None:
        found.append(reader.take(part.frame))
    return found
