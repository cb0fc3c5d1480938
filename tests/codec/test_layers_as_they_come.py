"""Layers are given out as soon as they are complete, and are then what a whole read gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import ContainerDecoder
from kvquilt_codec.types import TOKEN_BLOCK, Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, UNIFORM, bits, chunk_identity, make_chunk, make_side

CODER = make_coder(make_profile())
LAYERS = len(UNIFORM)


def stored(tokens: int, *, coded: bool) -> bytes:
    chunk = make_chunk(tokens)
    coder = CODER if coded else None
    return container.encode(chunk, Level.HIGH, chunk_identity(chunk), coder, make_side(chunk))


CONTAINERS = {
    (blocks, coded): stored(tokens, coded=coded)
    for blocks, tokens in ((1, 40), (2, TOKEN_BLOCK + 9))
    for coded in (False, True)
}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(CONTAINERS)), st.integers(1, 3), st.integers(20, 4000))
def test_a_layer_is_final_when_it_is_given_out(which: tuple[int, bool], depth: int, piece: int) -> None:
    data = CONTAINERS[which]
    quality = depth if which[1] else None
    given_out: list[int] = []
    kept: dict[int, tuple[bytes, bytes]] = {}

    def take(layer: int) -> None:
        assert layer == 0 or decoder.described  # in the file's order side information follows layer 0
        kv = decoder.layer(layer)
        given_out.append(layer)
        kept[layer] = bits(kv.keys), bits(kv.values)

    decoder = ContainerDecoder(FINGERPRINT, None, quality, lambda _: CODER, take)
    raw = _read(data, quality)
    for begin in range(0, len(raw), piece):
        before = [decoder.bytes_until(layer) for layer in range(LAYERS)] if decoder.head else None
        decoder.feed(raw[begin : begin + piece])
        if before is not None:
            after = [decoder.bytes_until(layer) for layer in range(LAYERS)]
            assert after == [max(0, left - len(raw[begin : begin + piece])) for left in before]
            assert [layer for layer, left in enumerate(after) if left == 0] == given_out
            assert after == sorted(after)
    done = decoder.finish()
    assert given_out == list(range(LAYERS))
    for layer, kv in enumerate(done.kv):
        assert kept[layer] == (bits(kv.keys), bits(kv.values))
    assert decoder.token_ids is not None
    assert np.array_equal(decoder.token_ids, done.token_ids)
    assert decoder.side is done.side


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_first_layer_of_one_block_comes_after_the_coarser_quality_layers(blocks: int, depth: int) -> None:
    data = _read(CONTAINERS[blocks, True], depth)
    decoder = ContainerDecoder(FINGERPRINT, None, depth, lambda _: CODER)
    head = container.parse_head(data)
    decoder.feed(data[: head.head_bytes])
    payload = len(data) - head.head_bytes
    before_the_last = payload - sum(
        s.length
        for s in head.sections
        if s.quality_layer == depth - 1 and s.token_block == blocks - 1 and (depth > 1 or blocks > 1)
    )
    if depth == blocks == 1:
        assert decoder.bytes_until(0) < payload / 2
    else:
        assert before_the_last < decoder.bytes_until(0) < payload
    assert decoder.bytes_until(LAYERS - 1) == payload


def _read(data: bytes, quality_layers: int | None) -> bytes:
    head = container.parse_head(data)
    parts = [data[: head.head_bytes]]
    parts += [data[begin:end] for begin, end in head.byte_ranges(range(LAYERS), quality_layers)]
    return b"".join(parts)
