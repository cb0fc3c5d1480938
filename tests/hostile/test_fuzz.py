"""Thousands of random mutations: what is read is what was written, or an error of ours; nothing else, ever."""

import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import ContainerDecoder, DecodedChunk
from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import DataType, LayerShape, Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, UNEVEN, bits, make_chunk, make_container
from tests.hostile.draft import Draft

MUTATIONS_PER_CONTAINER = 600
SHAPES = (LayerShape(1, 3, 2), LayerShape(2, 2, 2))
CODERS = [
    make_coder(make_profile(SHAPES, history=2, distance=1.0)),
    make_coder(make_profile(SHAPES, history=0, quality_layers=2)),
]
VALID = {
    "joint, predicted": make_container(make_chunk(20, SHAPES, seed=5), Level.HIGH, coder=CODERS[0]),
    "joint, two blocks": make_container(make_chunk(258, SHAPES, seed=6), Level.HIGH, coder=CODERS[1]),
    "lossless": make_container(make_chunk(4, SHAPES, seed=1)),
    "high": make_container(make_chunk(5, UNEVEN, seed=2), Level.HIGH),
    "lossless float32, two blocks": make_container(make_chunk(257, SHAPES, DataType.FLOAT32, seed=3)),
    "high float16, rotated": make_container(
        make_chunk(9, SHAPES, DataType.FLOAT16, rotated_from=7, seed=4), Level.HIGH
    ),
}
REFUSED = (IntegrityError, FingerprintMismatchError, NotFoundError)


def coders(digest: str) -> JointCoder:
    for coder in CODERS:
        if coder.digest == digest:
            return coder
    raise NotFoundError("expected a profile that the tests made; got another digest")


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.choice([1, 4, 16, 32, 100])]


def repeat(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    data[begin:begin] = data[begin : begin + rng.choice([1, 4, 32, 100])]


def splice(data: bytearray, rng: random.Random) -> None:
    other = rng.choice(list(VALID.values()))
    begin = rng.randrange(min(len(data), len(other)))
    size = rng.choice([1, 4, 16, 32, len(other)])
    data[begin : begin + size] = other[begin : begin + size]


def move(data: bytearray, rng: random.Random) -> None:
    begin, to = sorted(rng.randrange(len(data)) for _ in range(2))
    piece = data[begin : begin + 32]
    del data[begin : begin + 32]
    data[to:to] = piece


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip_bits,
    set_byte,
    truncate,
    cut_out,
    repeat,
    splice,
    move,
]


def tensors(decoded: DecodedChunk) -> list[bytes]:
    return [bits(decoded.token_ids), *(bits(t) for layer in decoded.kv for t in (layer.keys, layer.values))]


def read_whole(data: bytes) -> DecodedChunk:
    return container.decode(data, FINGERPRINT, coders=coders)


def read_in_pieces(data: bytes, rng: random.Random) -> DecodedChunk:
    decoder = ContainerDecoder(FINGERPRINT, coders=coders)
    position = 0
    while position < len(data):
        size = rng.randrange(1, 400)
        decoder.feed(data[position : position + size])
        position += size
    return decoder.finish()


@pytest.mark.parametrize("name", VALID)
def test_a_mutated_container_gives_its_tensors_or_an_error_of_ours(name: str) -> None:
    valid = VALID[name]
    expected = tensors(read_whole(valid))
    others = {data: tensors(read_whole(data)) for data in VALID.values()}
    refused = 0
    for seed in range(MUTATIONS_PER_CONTAINER):
        rng = random.Random(seed)
        data = bytearray(valid)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            if data:
                rng.choice(MUTATIONS)(data, rng)
        try:
            decoded = read_whole(bytes(data)) if seed % 2 else read_in_pieces(bytes(data), rng)
        except REFUSED:
            refused += 1
            continue
        assert tensors(decoded) == others.get(bytes(data), expected), f"wrong tensors from seed {seed}"
    assert refused > MUTATIONS_PER_CONTAINER * 0.9, "nearly every mutation changes a byte, and every byte is covered"


@pytest.mark.parametrize("name", VALID)
def test_lies_under_checksums_that_match_give_tensors_of_their_shapes_or_an_error_of_ours(name: str) -> None:
    """An attacker computes checksums too: then the content may differ, but never crash a reader or overrun it."""
    accepted = 0
    for seed in range(MUTATIONS_PER_CONTAINER):
        rng = random.Random(seed)
        draft = Draft.parse(VALID[name])
        lie(draft, rng)
        try:
            decoded = read_whole(draft.build())
        except REFUSED:
            continue
        accepted += 1
        tokens = decoded.head.header.tokens
        assert decoded.chunk().layout.nbytes(tokens) == sum(t.nbytes for kv in decoded.kv for t in (kv.keys, kv.values))
    assert accepted < MUTATIONS_PER_CONTAINER, "most lies contradict themselves"


def lie(draft: Draft, rng: random.Random) -> None:
    """Change one thing that a checksum does not protect from its own author."""
    section = rng.choice(draft.sections)
    what = rng.randrange(5)
    if what == 0:
        payload = bytearray(section.payload)
        rng.choice(MUTATIONS)(payload, rng)
        section.payload = bytes(payload)
    elif what == 1:
        name = rng.choice(["token_block", "quality_layer", "part", "codec_id", "layer", "reserved"])
        setattr(section, name, rng.choice([0, 1, 2, 3, 16, 255]))
    elif what == 2:
        section.length = rng.choice([0, 1, len(section.payload) + 1, 2**31, 2**32 - 1])
    elif what == 3:
        name = rng.choice(sorted(draft.header))
        draft.header[name] = rng.choice([None, 0, -1, 1, 2**63, "", "x", [], {}, [[1, 1, 1]], 0.5, True])
    else:
        raw = bytearray(repr(draft.header).encode())
        rng.choice(MUTATIONS)(raw, rng)
        draft.raw_header = bytes(raw)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300))
@example(data=b"KVQUILT\x00")
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    for read in (lambda: container.decode(data, FINGERPRINT), lambda: container.verify(data)):
        with pytest.raises(IntegrityError):
            read()
