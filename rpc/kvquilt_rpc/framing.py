"""Frames to and from a message's wire form without making the message, which copies the bytes several times.

What is written is what protobuf writes. What is read is what protobuf would read: bytes of another form than the one
written here (unknown fields, another order) go through protobuf. docs/decisions/0021-get-path.md has the measurements.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal

from google.protobuf.message import Message

from kvquilt_codec.errors import IntegrityError
from kvquilt_proto.v1 import common_pb2
from kvquilt_rpc import frames
from kvquilt_rpc.frames import Header, Part

_OFFSET, _DATA = (
    bytes([common_pb2.Frame.DESCRIPTOR.fields_by_name[name].number << 3 | wire_type])
    for name, wire_type in (("offset", 0), ("data", 2))
)


@dataclass(frozen=True, slots=True)
class WireFrame(Generic[Header]):
    """A frame as `common_pb2.Frame`, and the message that it came in as `frames.Part`."""

    offset: int
    data: bytes

    @property
    def frame(self) -> "WireFrame[Header]":
        """See `frames.Part`."""
        return self

    @property
    def header(self) -> Header:
        """There is none.

        Raises:
            IntegrityError: always.
        """
        raise IntegrityError("expected a header; got a frame")

    def HasField(self, field_name: Literal["header", "frame"], /) -> bool:  # noqa: N802  protobuf's name
        """See `frames.Part`."""
        return field_name == "frame"


class Framing(Generic[Header]):
    """Of one message type that has frames in its field `frame`."""

    def __init__(self, message: type[Message]) -> None:
        self._parse: Callable[[bytes], Any] = message.FromString
        self._tag = _varint(message.DESCRIPTOR.fields_by_name["frame"].number << 3 | 2)

    def packed(self, offset: int, pieces: Sequence[bytes | memoryview], before: bytes = b"") -> bytes:
        """A message with a frame of these pieces, one after the other, and with fields `before` it."""
        size = sum(map(len, pieces))
        head = (_OFFSET + _varint(offset) if offset else b"") + _DATA + _varint(size)
        return b"".join((before, self._tag, _varint(len(head) + size), head, *pieces))

    def parsed(self, data: bytes) -> Part[Header]:
        """The frame of a message, or the message if it has another form.

        Raises:
            DecodeError: it is no such message.
        """
        frame: WireFrame[Header] | None = frame_at(data, self._tag, 0)
        return self._parse(data) if frame is None else frame


class Packing:
    """Buffers of any size into frames of a payload, half full at least but for the last.

    Args:
        framing: of the messages that the frames go into.
        first: fields of the first of them, in their wire form.
        each: fields of every one.
    """

    def __init__(self, framing: Framing[Any], first: bytes = b"", each: bytes = b"") -> None:
        self._framing = framing
        self._before = each + first
        self._each = each
        self._offset = 0
        self._pieces: list[memoryview] = []
        self._size = 0

    def take(self, buffers: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """The messages that the next buffers fill."""
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            while len(view):
                piece = view[: frames.FRAME_BYTES - self._size]
                self._pieces.append(piece)
                self._size += len(piece)
                view = view[len(piece) :]
                if self._size == frames.FRAME_BYTES:
                    yield self._message()
        if self._size >= frames.FRAME_BYTES // 2:
            yield self._message()

    def finish(self) -> Iterator[bytes]:
        """What is left."""
        if self._pieces:
            yield self._message()

    def _message(self) -> bytes:
        message = self._framing.packed(self._offset, self._pieces, self._before)
        self._before = self._each
        self._offset += self._size
        self._pieces, self._size = [], 0
        return message


def frame_at(data: bytes, tag: bytes, at: int) -> WireFrame[Any] | None:
    """The frame that is a message's field with this tag, from a place to the message's end, if it has that form."""
    if not data.startswith(tag, at):
        return None
    length, at = read_varint(data, at + len(tag))
    if at + length != len(data):
        return None
    offset = 0
    if data.startswith(_OFFSET, at):
        offset, at = read_varint(data, at + 1)
    if not data.startswith(_DATA, at):
        return None
    length, at = read_varint(data, at + 1)
    return WireFrame(offset, data[at:]) if length and at + length == len(data) else None


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place after it; (-1, `at`), which fits nothing, where there is none of at most 8 bytes."""
    number = 0
    for place, byte in enumerate(data[at : at + 8]):
        number |= (byte & 0x7F) << 7 * place
        if byte <= 0x7F:
            return number, at + place + 1
    return -1, at
