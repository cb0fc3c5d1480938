"""Floats in parts: every backend gives the parts of the reference, and merging undoes it to the bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_kernels import Kernels
from kvquilt_kernels.floats import BFLOAT16, FLOAT16, FLOAT32, Anchors, FloatFormat, SplitFloats
from tests.kernels.blocks import BACKENDS, REFERENCE, backends

FORMATS = {"bfloat16": BFLOAT16, "float16": FLOAT16, "float32": FLOAT32}

formats = pytest.mark.parametrize("float_format", FORMATS.values(), ids=FORMATS)


def random_words(float_format: FloatFormat, tokens: int, channels: int, seed: int) -> np.ndarray:
    """Any bits at all; every other channel as real KV has them, near 1."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << (8 * float_format.width), (tokens, channels)).astype(float_format.words)
    near = (rng.normal(1, 1, (tokens, channels)).astype(np.float32)).view(np.uint32) >> (32 - 8 * float_format.width)
    if float_format is FLOAT16:
        near = rng.normal(1, 1, (tokens, channels)).astype(np.float16).view(np.uint16)
    words[:, ::2] = near.astype(float_format.words)[:, ::2]
    return words


def anchors_for(float_format: FloatFormat, channels: int, octaves: int, seed: int) -> Anchors:
    rng = np.random.default_rng(seed)
    one = (1 << (float_format.exponent_bits - 1)) - 1
    tops = rng.integers(0, 1 << float_format.exponent_bits, channels).astype(np.uint8)
    tops[::2] = one + 2
    return Anchors(tops, rng.integers(0, 2, channels).astype(np.uint8), octaves)


def same(one: SplitFloats, other: SplitFloats) -> bool:
    return (
        np.array_equal(one.symbols, other.symbols)
        and np.array_equal(one.escapes, other.escapes)
        and np.array_equal(one.mantissas, other.mantissas)
    )


@pytest.mark.parametrize(
    ("float_format", "word", "symbol", "escapes", "mantissas"),
    [
        (BFLOAT16, 0x3F80, 4, [], [0]),  # 1.0, its exponent 127 two below the top of 129
        (BFLOAT16, 0xBFFF, 5, [], [0x7F]),
        (BFLOAT16, 0x4080, 0, [], [0]),  # 4.0
        (BFLOAT16, 0x4100, 6, [0x082], [0]),  # 8.0 is above the top, 0.25 below the last of three octaves
        (BFLOAT16, 0xBE81, 6, [0x17D], [1]),
        (FLOAT32, 0x3F812345, 4, [], [0x45, 0x23, 0x01]),
        (FLOAT32, 0xFFC00001, 6, [0x1FF], [1, 0, 0x40]),  # a NaN
    ],
)
def test_parts_of_known_words(
    float_format: FloatFormat, word: int, symbol: int, escapes: list[int], mantissas: list[int]
) -> None:
    words = np.array([[word]], float_format.words)
    anchors = Anchors(np.array([129], np.uint8), np.array([0], np.uint8), 3)
    for name, kernels in BACKENDS.items():
        parts = kernels.split_floats(words, float_format, anchors)
        got = (parts.symbols.tolist(), parts.escapes.tolist(), parts.mantissas[:, 0, 0].tolist())
        assert got == ([[symbol]], escapes, mantissas), name


@formats
@pytest.mark.parametrize(("tokens", "channels"), [(1, 1), (3, 7), (2, 16), (5, 33), (64, 100), (0, 4)])
@pytest.mark.parametrize("octaves", [1, 12, 127])
def test_every_backend_gives_the_parts_of_the_reference_and_merges_them(
    float_format: FloatFormat, tokens: int, channels: int, octaves: int
) -> None:
    words = random_words(float_format, tokens, channels, seed=tokens)
    anchors = anchors_for(float_format, channels, octaves, seed=channels)
    expected = REFERENCE.split_floats(words, float_format, anchors)
    counts = REFERENCE.exponent_counts(words, float_format, anchors.tops, octaves)
    assert counts.sum() == words.size
    for name, kernels in BACKENDS.items():
        assert same(kernels.split_floats(words, float_format, anchors), expected), name
        assert np.array_equal(kernels.merge_floats(expected, float_format, anchors), words), name
        assert np.array_equal(kernels.exponent_counts(words, float_format, anchors.tops, octaves), counts), name


@formats
def test_counts_are_those_of_the_symbols(float_format: FloatFormat) -> None:
    words = random_words(float_format, 40, 9, seed=1)
    anchors = anchors_for(float_format, 9, 12, seed=2)
    unflipped = Anchors(anchors.tops, np.zeros_like(anchors.flips), 12)
    symbols = REFERENCE.split_floats(words, float_format, unflipped).symbols
    counts = REFERENCE.exponent_counts(words, float_format, anchors.tops, 12)
    for channel in range(9):
        assert counts[channel].tolist() == np.bincount(symbols[:, channel], minlength=25).tolist()


@settings(deadline=None)
@given(
    float_format=st.sampled_from(list(FORMATS.values())),
    octaves=st.integers(1, 127),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_backends_agree_on_any_parts_whether_they_fit_or_not(
    float_format: FloatFormat, octaves: int, seed: int, data: st.DataObject
) -> None:
    """Damaged symbols and escapes: all backends refuse the same, and what they accept splits into the same parts."""
    rng = np.random.default_rng(seed)
    tokens, channels = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    anchors = anchors_for(float_format, channels, octaves, seed)
    parts = REFERENCE.split_floats(random_words(float_format, tokens, channels, seed), float_format, anchors)
    symbols, escapes = parts.symbols.copy(), parts.escapes.copy()
    for _ in range(data.draw(st.integers(0, 2))):
        symbols[rng.integers(tokens), rng.integers(channels)] = rng.integers(0, 256)
    if data.draw(st.booleans()) and escapes.size:
        escapes[rng.integers(escapes.size)] = rng.integers(0, 1 << 16)
    if data.draw(st.integers(0, 3)) == 0:
        escapes = escapes[:-1] if data.draw(st.booleans()) else np.append(escapes, np.uint16(3))
    damaged = SplitFloats(symbols, escapes, parts.mantissas)
    results = []
    for kernels in BACKENDS.values():
        try:
            results.append(kernels.merge_floats(damaged, float_format, anchors))
        except ValueError:
            results.append(None)
    for one, other in itertools.pairwise(results):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    if results[0] is not None:
        assert same(REFERENCE.split_floats(results[0], float_format, anchors), damaged)


@settings(deadline=None)
@given(values=st.binary(max_size=100), bits=st.integers(1, 7))
def test_packed_bits_are_the_same_everywhere_and_come_back(values: bytes, bits: int) -> None:
    given_values = np.frombuffer(values, np.uint8)
    low = given_values & ((1 << bits) - 1)
    stream = sum(int(value) << (bits * at) for at, value in enumerate(low))
    expected = stream.to_bytes(bits * -(-len(values) // 8), "little")
    for name, kernels in BACKENDS.items():
        packed = kernels.pack_bits(given_values, bits)
        assert packed.tobytes() == expected, name
        assert kernels.unpack_bits(packed, bits, len(values)).tobytes() == low.tobytes(), name


@backends
def test_packed_bits_of_another_size_or_with_more_bits_are_refused(kernels: Kernels) -> None:
    packed = kernels.pack_bits(np.arange(9, dtype=np.uint8), 7)
    for wrong in (packed[:-1], np.append(packed, np.uint8(0))):
        with pytest.raises(ValueError, match="bytes"):
            kernels.unpack_bits(wrong, 7, 9)
    packed[-1] |= 0x80
    with pytest.raises(ValueError, match="zeros"):
        kernels.unpack_bits(packed, 7, 9)
    for bits in (0, 8):
        with pytest.raises(ValueError, match="1 to 7 bits"):
            kernels.pack_bits(packed, bits)


@backends
def test_arrays_that_do_not_fit_together_are_refused(kernels: Kernels) -> None:
    words = np.zeros((3, 4), np.uint16)
    anchors = anchors_for(BFLOAT16, 4, 12, seed=0)
    parts = kernels.split_floats(words, BFLOAT16, anchors)
    with pytest.raises(ValueError, match="words"):
        kernels.split_floats(words[:, :3], BFLOAT16, anchors)
    with pytest.raises(TypeError, match="uint32"):
        kernels.split_floats(words, FLOAT32, anchors)
    with pytest.raises(ValueError, match="mantissas"):
        kernels.merge_floats(parts, FLOAT32, anchors)
    with pytest.raises(ValueError, match="symbols"):
        kernels.merge_floats(SplitFloats(parts.symbols[:2], parts.escapes, parts.mantissas), BFLOAT16, anchors)
    with pytest.raises(ValueError, match="octaves"):
        kernels.exponent_counts(words, BFLOAT16, anchors.tops, 128)


def test_anchors_and_formats_that_cannot_be_are_refused() -> None:
    tops = np.zeros(4, np.uint8)
    with pytest.raises(ValueError, match="flips 0 or 1"):
        Anchors(tops, tops + np.uint8(2), 12)
    with pytest.raises(ValueError, match="octaves"):
        Anchors(tops, tops, 0)
    with pytest.raises(ValueError, match="exponent of 1 to 8 bits"):
        FloatFormat(4, 10)
