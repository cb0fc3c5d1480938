"""Bulk transfers: raw bytes in frames of at most 1 MiB, in order, without gaps.

Streams of such frames were measured several times faster than large unary messages, and they bound the memory that
one message may take.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Literal, Protocol, TypeVar

from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_proto.v1 import common_pb2

FRAME_BYTES = 1 << 20
MAX_OBJECT_BYTES = 4 << 30
"""That a client takes."""


class _Sized(Protocol):
    @property
    def payload_bytes(self) -> int: ...


Header = TypeVar("Header", bound=_Sized, covariant=True)


class FrameLike(Protocol):
    """A frame as protobuf or `framing` reads it."""

    @property
    def offset(self) -> int:
        """Of its first byte in the payload."""

    @property
    def data(self) -> bytes:
        """Its bytes."""


class Part(Protocol[Header]):
    """A message of a stream: its header, or a frame."""

    @property
    def header(self) -> Header:
        """Of the first message."""

    @property
    def frame(self) -> FrameLike:
        """Of all others."""

    def HasField(self, field_name: Literal["header", "frame"], /) -> bool:  # noqa: N802  protobuf's name
        """Which of the two it is."""


def split(buffers: Iterable[bytes | memoryview], offset: int = 0) -> Iterator[common_pb2.Frame]:
    """Cut buffers into frames; the first byte is at `offset` of the payload."""
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for begin in range(0, len(view), FRAME_BYTES):
            piece = view[begin : begin + FRAME_BYTES]
            yield common_pb2.Frame(offset=offset, data=bytes(piece))
            offset += len(piece)


class FrameReader:
    """Checks that frames make up a payload of the declared size.

    Args:
        payload_bytes: the size that the stream's header declared.
        limit: the largest size that the receiver accepts.

    Raises:
        BadRequestError: the declared size is beyond the limit.
    """

    def __init__(self, payload_bytes: int, limit: int) -> None:
        if payload_bytes > limit:
            raise BadRequestError(f"expected a payload of at most {limit} bytes; {payload_bytes} were declared")
        self.payload_bytes = payload_bytes
        self.received = 0

    def take(self, frame: FrameLike) -> bytes:
        """The frame's bytes.

        Raises:
            IntegrityError: out of order, too large, empty, or beyond the declared size.
        """
        data = frame.data
        if frame.offset != self.received:
            raise IntegrityError(f"expected a frame at offset {self.received}; got {frame.offset}")
        if not 0 < len(data) <= FRAME_BYTES:
            raise IntegrityError(f"expected a frame of 1..{FRAME_BYTES} bytes; got {len(data)}")
        self.received += len(data)
        if self.received > self.payload_bytes:
            raise IntegrityError(f"expected {self.payload_bytes} bytes as declared; got more")
        return data

    def finish(self) -> None:
        """Check that everything came.

        Raises:
            IntegrityError: the stream ended early.
        """
        if self.received != self.payload_bytes:
            raise IntegrityError(f"expected {self.payload_bytes} bytes; the stream ended after {self.received}")


async def uploaded_header(parts: AsyncIterator[Part[Header]]) -> Header:
    """What a stream of requests begins with.

    Raises:
        BadRequestError: something else.
    """
    first = await anext(aiter(parts), None)
    if first is None or not first.HasField("header"):
        raise BadRequestError("expected a header first; the stream has none")
    return first.header


async def uploaded_payload(parts: AsyncIterator[Part[Header]], payload_bytes: int, limit: int) -> bytes:
    """What the requests after the header add up to.

    Args:
        parts: the rest of the stream.
        payload_bytes: what the header declared.
        limit: the largest size that is accepted.

    Raises:
        BadRequestError: a size beyond the limit was declared, or something else than frames came.
        IntegrityError: frames that do not add up to what was declared.
    """
    reader = FrameReader(payload_bytes, limit)
    payload = bytearray()  # grows with what really comes: a declared size is only a claim
    async for part in parts:
        if not part.HasField("frame"):
            raise BadRequestError("expected frames after the header; got something else")
        payload += reader.take(part.frame)
    reader.finish()
    return bytes(payload)
