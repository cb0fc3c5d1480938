"""Containers verified while they arrive: every byte comes back, in order, and never one that was not verified."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import ArrivingContainer
from kvquilt_codec.errors import IntegrityError
from tests.codec.samples import make_chunk, make_container

DATA = make_container(make_chunk(70))
HEAD = container.parse_head(DATA)
EDGES = sorted(
    {0, 10, HEAD.head_bytes, len(DATA), *(section.offset + step for section in HEAD.sections for step in (-1, 0, 1))}
)

cuts = st.lists(st.sampled_from(EDGES) | st.integers(0, len(DATA)), max_size=8).map(sorted)


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    return [data[begin:end] for begin, end in itertools.pairwise([0, *places, len(data)])]


def take(data: bytes, places: list[int], came: bytearray) -> None:
    """Feed everything and say so; what comes back is added to `came`."""
    arriving = ArrivingContainer()
    for piece in pieces(data, places):
        for buffer in arriving.feed(piece):
            came += buffer
    arriving.finish()


@settings(deadline=None)
@given(places=cuts)
def test_what_is_sound_comes_back_as_soon_as_its_checksum_can_be_known(places: list[int]) -> None:
    arriving = ArrivingContainer()
    came = received = 0
    for piece in pieces(DATA, places):
        received += len(piece)
        for buffer in arriving.feed(piece):
            assert buffer == DATA[came : came + len(buffer)]
            came += len(buffer)
        ends = [HEAD.head_bytes, *(section.offset + section.length for section in HEAD.sections)]
        assert came == max((end for end in ends if end <= received), default=0)
    arriving.finish()
    assert came == len(DATA)
    assert arriving.head == HEAD


@settings(deadline=None)
@given(places=cuts, at=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_a_changed_byte_never_comes_back(places: list[int], at: int, bit: int) -> None:
    data = bytearray(DATA)
    data[at] ^= 1 << bit
    came = bytearray()
    with pytest.raises(IntegrityError):
        take(bytes(data), places, came)
    assert came == DATA[: len(came)]
    assert len(came) <= at


@settings(deadline=None)
@given(places=cuts, change=st.integers(-len(DATA), 9).filter(bool))
def test_fewer_or_more_bytes_are_refused(places: list[int], change: int) -> None:
    data = DATA[:change] if change < 0 else DATA + bytes(change)
    with pytest.raises(IntegrityError):
        take(data, [min(place, len(data)) for place in places], bytearray())
