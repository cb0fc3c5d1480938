"""A coarse version that is kept and made finer: the same tensors as a direct read, for the missing bytes only."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import HeldContainer
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError
from kvquilt_codec.types import LayerShape, Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT, bits, make_chunk, make_container

SHAPES = (LayerShape(2, 4, 4), LayerShape(1, 8, 8), LayerShape(2, 8, 4), LayerShape(1, 4, 4))
CODERS = {history: make_coder(make_profile(SHAPES, history=history, distance=2.0)) for history in (0, 2)}
DATA = {history: make_container(make_chunk(300, SHAPES), Level.HIGH, coder=CODERS[history]) for history in CODERS}


def sent(data: bytes, layers: range, quality_layers: int, held: int = 0) -> bytes:
    """What a node sends: the head, then the byte ranges."""
    head = container.parse_head(data)
    ranges = head.byte_ranges(layers, quality_layers, held)
    return data[: head.head_bytes] + b"".join(data[begin:end] for begin, end in ranges)


def tensors(decoded: container.DecodedChunk) -> list[bytes]:
    return [bits(tensor) for layer in decoded.kv for tensor in (layer.keys, layer.values)]


@settings(deadline=None, max_examples=60)
@given(
    history=st.sampled_from([0, 2]),
    layers=st.sampled_from([range(4), range(1), range(1, 3), range(3, 4)]),
    steps=st.sampled_from([(1, 2), (1, 3), (2, 3), (1, 2, 3), (3,)]),
)
def test_any_way_to_a_level_gives_the_bits_of_a_direct_read(
    history: int, layers: range, steps: tuple[int, ...]
) -> None:
    data, coder = DATA[history], CODERS[history]
    held = HeldContainer.received(sent(data, layers, steps[0]), FINGERPRINT, layers, steps[0])
    for before, depth in itertools.pairwise(steps):
        held = held.extended(sent(data, layers, depth, before), depth)
    direct = container.decode(data, FINGERPRINT, layers, steps[-1], lambda _: coder)
    assert tensors(held.decode(lambda _: coder)) == tensors(direct)
    assert held.nbytes == len(sent(data, layers, steps[-1]))
    coarse = container.decode(data, FINGERPRINT, layers, 1, lambda _: coder)
    assert tensors(held.decode(lambda _: coder, 1)) == tensors(coarse), "a coarser level of what is held"


def test_the_missing_part_and_what_is_held_are_the_whole() -> None:
    data = DATA[2]
    head = container.parse_head(data).head_bytes
    parts = [len(sent(data, range(4), 3, held)) - head for held in (0, 1, 2)]
    first = len(sent(data, range(4), 1)) - head
    assert first + parts[1] == parts[0] == len(data) - head
    assert 0 < parts[2] < parts[1] < parts[0]


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_a_damaged_byte_in_either_part_is_refused(place: float) -> None:
    first, rest = sent(DATA[2], range(4), 1), sent(DATA[2], range(4), 3, 1)
    held = HeldContainer.received(first, FINGERPRINT, None, 1)
    for good, read in (
        (first, lambda data: HeldContainer.received(data, FINGERPRINT, None, 1)),
        (rest, lambda data: held.extended(data, 3)),
    ):
        damaged = bytearray(good)
        damaged[int(place * (len(good) - 1))] ^= 1
        with pytest.raises(IntegrityError):
            read(bytes(damaged))
        for wrong in (good[:-1], good + b"\0", b""):
            with pytest.raises(IntegrityError):
                read(wrong)


def test_another_container_does_not_extend_this_one() -> None:
    held = HeldContainer.received(sent(DATA[2], range(4), 1), FINGERPRINT, None, 1)
    other = make_container(make_chunk(300, SHAPES, seed=1), Level.HIGH, coder=CODERS[2])
    with pytest.raises(IntegrityError, match="another one came"):
        held.extended(sent(other, range(4), 3, 1), 3)
    with pytest.raises(FingerprintMismatchError):
        HeldContainer.received(DATA[2], OTHER_FINGERPRINT)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_there_must_be_something_to_add(depth: int) -> None:
    held = HeldContainer.received(sent(DATA[2], range(4), 1), FINGERPRINT, None, 1)
    with pytest.raises(BadRequestError, match="quality layers"):
        held.extended(b"", depth)


@pytest.mark.parametrize("held", [-1, 1, 2])
def test_a_container_without_a_profile_has_nothing_to_add(held: int) -> None:
    head = container.parse_head(make_container(make_chunk(), Level.HIGH))
    with pytest.raises(BadRequestError, match="fewer than the 1 quality layers"):
        head.byte_ranges(range(3), None, held)
