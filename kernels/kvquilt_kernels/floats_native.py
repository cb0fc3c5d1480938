"""Floats in parts, in C++."""

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels import _native
from kvquilt_kernels.entropy import Bytes
from kvquilt_kernels.floats import Anchors, FloatFormat, SplitFloats, Words
from kvquilt_kernels.floats_reference import check_packed, check_parts, check_words, packed_size


class NativeFloats:
    """C++ backend; see `kvquilt_kernels.floats.FloatKernels`.

    Attributes:
        isa: one of `rans_native.instruction_sets()`; AVX-512 runs what AVX2 does.
    """

    isa: str

    def exponent_counts(self, words: Words, float_format: FloatFormat, tops: Bytes, octaves: int) -> NDArray[np.uint32]:
        """See `FloatKernels.exponent_counts`."""
        anchors = Anchors(tops, np.zeros_like(tops), octaves)
        check_words(words, float_format, len(tops))
        counts = np.zeros((len(tops), 2 * octaves + 1), np.uint32)
        _native.exponent_counts(self.isa, words, float_format.mantissa_bits, anchors.tops, counts)
        return counts

    def split_floats(self, words: Words, float_format: FloatFormat, anchors: Anchors) -> SplitFloats:
        """See `FloatKernels.split_floats`."""
        check_words(words, float_format, len(anchors.tops))
        symbols = np.empty(words.shape, np.uint8)
        mantissas = np.empty((float_format.planes, *words.shape), np.uint8)
        args = (float_format.mantissa_bits, anchors.tops, anchors.flips, anchors.octaves)
        escapes = _native.split_floats(self.isa, words, *args, symbols, mantissas)
        return SplitFloats(symbols, escapes, mantissas)

    def merge_floats(self, parts: SplitFloats, float_format: FloatFormat, anchors: Anchors) -> Words:
        """See `FloatKernels.merge_floats`."""
        check_parts(parts, float_format, anchors)
        words: Words = np.empty(parts.symbols.shape, float_format.words)
        args = (float_format.mantissa_bits, anchors.tops, anchors.flips, anchors.octaves)
        _native.merge_floats(self.isa, parts.symbols, parts.escapes, parts.mantissas, *args, words)
        return words

    def pack_bits(self, values: Bytes, bits: int) -> Bytes:
        """See `FloatKernels.pack_bits`."""
        packed = np.empty(packed_size(len(values), bits), np.uint8)
        _native.pack_bits(values, bits, packed)
        return packed

    def unpack_bits(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """See `FloatKernels.unpack_bits`."""
        check_packed(packed, bits, count)
        values = np.empty(count, np.uint8)
        _native.unpack_bits(packed, bits, values)
        return values
