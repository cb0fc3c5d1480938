"""Frames: whatever is split comes back, and no other sequence of frames is taken for it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_proto.v1.common_pb2 import Frame
from kvquilt_rpc.frames import FRAME_BYTES, FrameReader, split

LIMIT = 1 << 30
PATTERN = np.random.default_rng(7).bytes(3 * FRAME_BYTES)

near_frames = st.sampled_from([0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES])
sizes = st.lists(near_frames | st.integers(0, len(PATTERN)), max_size=5)
payloads = st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=6)


def read(frames: list[Frame], declared: int) -> bytes:
    reader = FrameReader(declared, LIMIT)
    data = b"".join([reader.take(frame) for frame in frames])
    reader.finish()
    return data


def framed(pieces: list[bytes]) -> list[Frame]:
    offsets = itertools.accumulate(map(len, pieces), initial=0)
    return [Frame(offset=offset, data=piece) for offset, piece in zip(offsets, pieces, strict=False)]


@settings(deadline=None, max_examples=40)
@given(sizes=sizes, start=st.integers(0, 2**40))
def test_what_is_split_comes_back(sizes: list[int], start: int) -> None:
    buffers = [PATTERN[size % 7 :][:size] for size in sizes]
    whole = b"".join(buffers)
    frames = list(split(buffers))
    assert read(frames, len(whole)) == whole
    assert all(1 <= len(frame.data) <= FRAME_BYTES for frame in frames)
    assert len(frames) == sum(-(-len(buffer) // FRAME_BYTES) for buffer in buffers), "no more frames than needed"
    assert [frame.offset + start for frame in frames] == [frame.offset for frame in split(buffers, start)]


def test_views_of_any_element_type_are_split_as_bytes() -> None:
    array = np.arange(300_000, dtype=np.float64).reshape(3, 100_000)
    assert read(list(split([array.data, memoryview(b"tail")])), array.nbytes + 4) == array.tobytes() + b"tail"


def test_nothing_is_no_frame() -> None:
    assert list(split([])) == list(split([b"", b""])) == []
    assert read([], 0) == b""


def test_frames_hold_copies() -> None:
    buffer = bytearray(b"before")
    (frame,) = split([memoryview(buffer)])
    buffer[:] = b"after!"
    assert frame.data == b"before"


@given(pieces=payloads, data=st.data())
def test_frames_in_another_order_or_number_are_refused(pieces: list[bytes], data: st.DataObject) -> None:
    frames = framed(pieces)
    chosen = data.draw(st.lists(st.sampled_from(range(len(frames))), max_size=len(frames) + 2))
    declared = sum(map(len, pieces))
    if chosen == list(range(len(frames))):
        assert read(frames, declared) == b"".join(pieces)
        return
    with pytest.raises(IntegrityError):
        read([frames[index] for index in chosen], declared)


@given(pieces=payloads, which=st.integers(0, 5), shift=st.integers(-20, 20).filter(bool))
def test_a_frame_at_another_offset_is_refused(pieces: list[bytes], which: int, shift: int) -> None:
    frames = framed(pieces)
    frame = frames[which % len(frames)]
    frame.offset = max(0, frame.offset + shift) if frame.offset else abs(shift)
    with pytest.raises(IntegrityError, match="expected a frame at offset"):
        read(frames, sum(map(len, pieces)))


@given(pieces=payloads, change=st.integers(-48, 20).filter(bool))
def test_another_size_than_declared_is_refused(pieces: list[bytes], change: int) -> None:
    actual = sum(map(len, pieces))
    declared = max(0, actual + change)
    message = "as declared; got more" if declared < actual else f"the stream ended after {actual}"
    with pytest.raises(IntegrityError, match=message):
        read(framed(pieces), declared)


@pytest.mark.parametrize("size", [0, FRAME_BYTES + 1, 2 * FRAME_BYTES])
def test_a_frame_that_is_empty_or_too_large_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError, match=f"got {size}"):
        FrameReader(4 * FRAME_BYTES, LIMIT).take(Frame(data=bytes(size)))


def test_a_declared_size_beyond_the_limit_is_refused_before_anything_comes() -> None:
    assert FrameReader(100, 100).payload_bytes == 100
    with pytest.raises(BadRequestError, match="at most 100 bytes; 101 were declared"):
        FrameReader(101, 100)
