"""Frames in their wire form: what is written is what protobuf writes, and what is read is what protobuf reads."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import IntegrityError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1.common_pb2 import Frame
from kvquilt_rpc.frames import FRAME_BYTES, FrameReader
from kvquilt_rpc.framing import Framing, Packing, WireFrame

FRAMING = Framing[pb.GetChunkHeader](pb.GetChunkResponse)
PATTERN = np.random.default_rng(7).bytes(3 * FRAME_BYTES)

offsets = st.sampled_from([0, 1, 127, 128, 2**20, 2**32 - 1, 2**40]) | st.integers(0, 2**50)
data = st.binary(max_size=300)


def message(offset: int, content: bytes) -> bytes:
    return pb.GetChunkResponse(frame=Frame(offset=offset, data=content)).SerializeToString()


@given(offset=offsets, pieces=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_a_message_is_the_one_that_protobuf_writes(offset: int, pieces: list[bytes]) -> None:
    written = FRAMING.packed(offset, pieces)
    assert written == message(offset, b"".join(pieces))
    read = FRAMING.parsed(written)
    assert isinstance(read, WireFrame), "without protobuf"
    assert (read.frame.offset, read.frame.data) == (offset, b"".join(pieces))
    assert (read.HasField("frame"), read.HasField("header")) == (True, False)
    with pytest.raises(IntegrityError, match="expected a header"):
        _ = read.header


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """Bytes of a message, or of two, or with some that were changed, put in or taken away."""
    sound = message(draw(offsets), draw(data))
    other = pb.GetChunkResponse(header=pb.GetChunkHeader(payload_bytes=draw(offsets))).SerializeToString()
    content = bytearray(draw(st.sampled_from([sound, other, sound + other, other + sound, sound + sound])))
    place = draw(st.integers(0, min(24, len(content))))
    cut = draw(st.integers(0, 3))
    content[place : place + cut] = draw(st.binary(max_size=3))
    return bytes(content)


@settings(deadline=None, max_examples=400)
@given(content=altered() | st.binary(max_size=40))
@example(content=b"")
@example(content=b"\x12\x00")
@example(content=b"\x12\x02\x12\x00")
@example(content=b"\x12\x04\x08\x00\x12\x00")
@example(content=b"\x12\x0d\x08" + b"\xff" * 9 + b"\x01\x12\x00")
def test_any_bytes_are_read_as_protobuf_reads_them(content: bytes) -> None:
    try:
        expected = pb.GetChunkResponse.FromString(content)
    except DecodeError:
        with pytest.raises(DecodeError):
            FRAMING.parsed(content)
        return
    read = FRAMING.parsed(content)
    assert read.HasField("frame") == expected.HasField("frame")
    assert (read.frame.offset, read.frame.data) == (expected.frame.offset, expected.frame.data)


sizes = st.sampled_from([0, 1, 1000, FRAME_BYTES // 2, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES])


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.lists(sizes, max_size=3), max_size=4))
def test_buffers_of_any_size_become_frames_that_are_half_full_at_least(batches: list[list[int]]) -> None:
    buffers = [[PATTERN[size % 7 :][:size] for size in batch] for batch in batches]
    whole = b"".join(buffer for batch in buffers for buffer in batch)
    packing = Packing(FRAMING)
    messages = [message for batch in buffers for message in packing.take(batch)] + [*packing.finish()]
    reader = FrameReader(len(whole), len(whole))
    came = [reader.take(FRAMING.parsed(message).frame) for message in messages]
    reader.finish()
    assert b"".join(came) == whole
    assert all(FRAME_BYTES // 2 <= len(piece) <= FRAME_BYTES for piece in came[:-1])
