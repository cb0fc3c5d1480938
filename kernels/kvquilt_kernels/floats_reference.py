"""Floats in parts, in NumPy: the readable specification."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes
from kvquilt_kernels.floats import Anchors, FloatFormat, SplitFloats, Words


class ReferenceFloats:
    """NumPy backend; see `kvquilt_kernels.floats.FloatKernels`."""

    def exponent_counts(self, words: Words, float_format: FloatFormat, tops: Bytes, octaves: int) -> NDArray[np.uint32]:
        """See `FloatKernels.exponent_counts`."""
        anchors = Anchors(tops, np.zeros_like(tops), octaves)
        symbols = _symbols(_high(words, float_format, anchors), float_format, anchors)
        size = 2 * octaves + 1
        flat = (np.arange(len(tops)) * size + symbols).reshape(-1)
        return np.bincount(flat, minlength=len(tops) * size).reshape(len(tops), size).astype(np.uint32)

    def split_floats(self, words: Words, float_format: FloatFormat, anchors: Anchors) -> SplitFloats:
        """See `FloatKernels.split_floats`."""
        high = _high(words, float_format, anchors)
        symbols = _symbols(high, float_format, anchors)
        shifts = np.arange(float_format.planes, dtype=np.uint32)[:, None, None] * 8
        mantissas = (words & ((1 << float_format.mantissa_bits) - 1)).astype(np.uint32) >> shifts
        return SplitFloats(symbols, high[symbols == anchors.escape].astype(np.uint16), mantissas.astype(np.uint8))

    def merge_floats(self, parts: SplitFloats, float_format: FloatFormat, anchors: Anchors) -> Words:
        """See `FloatKernels.merge_floats`."""
        check_parts(parts, float_format, anchors)
        symbols = parts.symbols.astype(np.int32)
        exponents = anchors.tops - (symbols >> 1)
        high = exponents | ((symbols & 1) ^ anchors.flips) << float_format.exponent_bits
        escaped = symbols == anchors.escape
        if (symbols > anchors.escape).any() or (exponents[~escaped] < 0).any():
            raise ValueError("expected symbols of exponents at or above 0; got others")
        if int(escaped.sum()) != len(parts.escapes):
            raise ValueError(f"expected {int(escaped.sum())} escapes, as many as symbols; got {len(parts.escapes)}")
        high[escaped] = parts.escapes
        if (high >> (float_format.exponent_bits + 1)).any():
            raise ValueError("expected tops and escapes that are signs and exponents; got larger ones")
        if (_symbols(high, float_format, anchors) != symbols).any():
            raise ValueError("expected escapes that no symbol stands for; got others")
        shifts = np.arange(float_format.planes, dtype=np.uint32)[:, None, None] * 8
        mantissas = (parts.mantissas.astype(np.uint32) << shifts).sum(axis=0, dtype=np.uint32)
        bits = float_format.mantissa_bits
        words: Words = (high.astype(np.uint32) << bits | mantissas & ((1 << bits) - 1)).astype(float_format.words)
        return words

    def pack_bits(self, values: Bytes, bits: int) -> Bytes:
        """See `FloatKernels.pack_bits`."""
        size = packed_size(len(values), bits)
        ones = np.unpackbits(values[:, None], axis=1, count=bits, bitorder="little")
        packed = np.zeros(size, np.uint8)
        found = np.packbits(ones.reshape(-1), bitorder="little")
        packed[: len(found)] = found
        return packed

    def unpack_bits(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """See `FloatKernels.unpack_bits`."""
        check_packed(packed, bits, count)
        ones = np.unpackbits(packed, bitorder="little")
        if ones[count * bits :].any():
            raise ValueError("expected zeros after the last value; got other bits")
        return np.packbits(ones[: count * bits].reshape(count, bits), axis=1, bitorder="little").reshape(count)


def check_words(words: Words, float_format: FloatFormat, channels: int) -> None:
    """Raise for words that are not `[tokens, channels]` of the format's type."""
    if words.dtype != float_format.words:
        raise TypeError(f"expected words of {float_format.words}; got {words.dtype}")
    if words.ndim != 2 or words.shape[1] != channels:
        raise ValueError(f"expected words [tokens, {channels}]; got {words.shape}")


def check_parts(parts: SplitFloats, float_format: FloatFormat, anchors: Anchors) -> None:
    """Raise for parts whose types or shapes do not fit."""
    types = [parts.symbols.dtype.name, parts.escapes.dtype.name, parts.mantissas.dtype.name]
    if types != ["uint8", "uint16", "uint8"]:
        raise TypeError(f"expected uint8 symbols, uint16 escapes and uint8 mantissas; got {types}")
    shape = parts.symbols.shape
    fits = len(shape) == 2 and shape[1] == len(anchors.tops) and parts.escapes.ndim == 1
    if not fits or parts.mantissas.shape != (float_format.planes, *shape):
        raise ValueError(
            f"expected symbols [tokens, channels] and their mantissas; got {shape} {parts.mantissas.shape}"
        )


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed values; ValueError for a number of bits outside 1 to 7."""
    if not 1 <= bits <= 7:
        raise ValueError(f"expected 1 to 7 bits; got {bits}")
    return bits * -(-count // 8)


def check_packed(packed: Bytes, bits: int, count: int) -> None:
    """Raise ValueError for packed values of another size."""
    if packed.ndim != 1 or count < 0 or packed.size != packed_size(count, bits):
        raise ValueError(f"expected {packed_size(max(count, 0), bits)} bytes for {count} values; got {packed.shape}")


def _high(words: Words, float_format: FloatFormat, anchors: Anchors) -> NDArray[np.int32]:
    """Sign and exponent of every word."""
    check_words(words, float_format, len(anchors.tops))
    return (words >> float_format.mantissa_bits).astype(np.int32)


def _symbols(high: NDArray[np.int32], float_format: FloatFormat, anchors: Anchors) -> Bytes:
    signs = (high >> float_format.exponent_bits) ^ anchors.flips
    octave = anchors.tops - (high & ((1 << float_format.exponent_bits) - 1))
    inside = (octave >= 0) & (octave < anchors.octaves)
    symbols: NDArray[Any] = np.where(inside, 2 * octave + signs, anchors.escape)
    return symbols.astype(np.uint8)
