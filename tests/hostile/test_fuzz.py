"""Tens of thousands of mutations of valid containers of every codec: what was written is read, or an error of ours.

Seeds are fixed: the same mutations every time. A failure names its seed.
"""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import DecodedChunk
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.types import TOKEN_BLOCK, CodecId, Part
from tests.codec.samples import FINGERPRINT, bits
from tests.hostile import mutations
from tests.hostile.draft import Draft, Section
from tests.hostile.subjects import VALID, limited_memory, read_in_pieces, read_whole, side_of, tensors

DAMAGED, LYING, BATCHES = 200, 1_000, 4
"""Mutations a test; every container has `BATCHES` tests of either kind, for the tests to run side by side."""

EXPECTED = {name: read_whole(data) for name, data in VALID.items()}
REFUSED = (IntegrityError, FingerprintMismatchError, NotFoundError)

every_container = pytest.mark.parametrize("name", VALID)
batches = pytest.mark.parametrize("batch", range(BATCHES))


def test_there_are_at_least_twenty_thousand_mutations_and_every_codec_is_among_the_mutated() -> None:
    assert len(VALID) * BATCHES * (DAMAGED + DAMAGED // 2 + LYING) >= 40_000
    assert len(VALID) * BATCHES * LYING >= 20_000, "damage is found by a checksum, lies are what decoders must bear"
    assert {section.codec_id for data in VALID.values() for section in Draft.parse(data).sections} == set(CodecId)
    modes = {s.payload[0] for data in VALID.values() for s in Draft.parse(data).sections if s.codec_id == 7}
    assert modes == {0, 1}


@batches
@every_container
def test_a_mutated_container_gives_its_tensors_or_an_error_of_ours(name: str, batch: int) -> None:
    valid, others = VALID[name], list(VALID.values())
    known = {data: tensors(EXPECTED[other]) for other, data in VALID.items()}
    seen: Counter[str] = Counter()
    with limited_memory():
        for number in range(DAMAGED):
            seed = f"{name} {batch} {number}"
            rng = random.Random(seed)
            data = mutations.mutated(valid, rng, others)
            if data in known:
                assert tensors(read_whole(data)) == known[data]
                seen["the same or another container"] += 1
                continue
            with pytest.raises(REFUSED):
                read_whole(data) if number % 2 else read_in_pieces(data, rng)
            with pytest.raises(IntegrityError):
                container.verify(data)
            seen["refused"] += 1
    assert seen.total() == DAMAGED
    assert seen["refused"] > 0.9 * DAMAGED, "nearly every mutation changes a byte, and every byte is covered"


@batches
@every_container
def test_a_part_of_a_mutated_container_is_that_part_or_an_error_of_ours(name: str, batch: int) -> None:
    """Damage in sections that a reader does not need must not matter, and no other may be missed."""
    valid = VALID[name]
    depth = container.parse_head(valid).quality_layers
    parts = {
        (begin, end, quality): tensors(read_whole(valid, range(begin, end), quality))
        for end in range(1, len(EXPECTED[name].kv) + 1)
        for begin in range(end)
        for quality in range(1, depth + 1)
    }
    tried = 0
    with limited_memory():
        for number in range(DAMAGED // 2):
            rng = random.Random(f"part {name} {batch} {number}")
            data = bytearray(valid)
            mutations.flip_bits(data, rng, ())
            begin, end, quality = rng.choice(list(parts))
            tried += 1
            try:
                got = read_whole(bytes(data), range(begin, end), quality)
            except REFUSED:
                continue
            assert tensors(got) == parts[begin, end, quality]
    assert tried == DAMAGED // 2


@batches
@every_container
def test_lies_under_checksums_that_match_give_tensors_of_their_shapes_or_an_error_of_ours(
    name: str, batch: int
) -> None:
    """An attacker computes checksums too: then content may differ, where it was changed and nowhere else."""
    seen: Counter[str] = Counter()
    with limited_memory():
        for number in range(LYING):
            rng = random.Random(f"lie {name} {batch} {number}")
            data, changed = mutations.lie(VALID[name], rng)
            layers = None if rng.random() < 0.7 else range(rng.randrange(2), rng.randrange(2, 4))
            quality_layers = None if rng.random() < 0.7 else rng.randrange(1, 5)
            try:
                got = read_whole(data, layers, quality_layers)
            except REFUSED:
                seen["refused"] += 1
                continue
            except BadRequestError:
                assert layers is not None or quality_layers is not None, "nothing was asked for that may not be there"
                seen["refused"] += 1
                continue
            seen["read"] += 1
            check_shapes(got)
            if changed is not None and layers is None and quality_layers is None:
                check_the_rest(got, EXPECTED[name], changed)
                seen["compared"] += 1
    assert seen["refused"] + seen["read"] == LYING
    assert seen["refused"] > seen["read"], "most lies contradict themselves"
    assert seen["compared"] > 0, "and some do not"


def check_shapes(got: DecodedChunk) -> None:
    layout, tokens = got.head.layout, got.head.header.tokens
    assert len(got.kv) == len(got.layers)
    if got.side is not None:
        heads = max(shape.kv_heads for shape in layout.layers)
        expected = ((got.side.dependence, (len(layout.layers), heads, tokens)), (got.side.inter, (tokens,)))
        for array, shape in expected:
            assert array is None or (array.shape == shape and np.isfinite(array).all() and array.min() >= 0)
    for index, layer in zip(got.layers, got.kv, strict=True):
        for part, tensor in ((Part.KEYS, layer.keys), (Part.VALUES, layer.values)):
            assert tensor.shape == layout.layers[index].of(part, tokens)
            assert tensor.dtype == layout.data_type.numpy


def check_the_rest(got: DecodedChunk, expected: DecodedChunk, changed: Section) -> None:
    """All that the changed payload has no part in is as it was: other layers, other tensors, other token blocks."""
    assert bits(got.token_ids) == bits(expected.token_ids)
    if changed.part == Part.CONTEXT:
        assert tensors(got)[-2 * len(got.kv) :] == tensors(expected)[-2 * len(got.kv) :]
        return
    assert side_of(got) == side_of(expected)
    rows = slice(changed.token_block * TOKEN_BLOCK, (changed.token_block + 1) * TOKEN_BLOCK)
    for index, (one, other) in enumerate(zip(got.kv, expected.kv, strict=True)):
        later = changed.codec_id == CodecId.JOINT_PREDICTED and index > changed.layer
        for part, tensor, right in ((Part.KEYS, one.keys, other.keys), (Part.VALUES, one.values, other.values)):
            apart = changed.part in (Part.KEYS, Part.VALUES) and part != changed.part
            copy = tensor.copy()
            if later or (index == changed.layer and not apart):
                copy[rows] = right[rows]
            assert bits(copy) == bits(right)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300))
@example(data=b"KVQUILT\x00")
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    for read in (lambda: container.decode(data, FINGERPRINT), lambda: container.verify(data)):
        with pytest.raises(IntegrityError):
            read()
