"""The vocabulary of lossless coding: floats taken apart into what an entropy coder can shrink and what it cannot.

A float of a KV tensor is near others of its channel in sign and magnitude; its mantissa is noise. So the exponent
counted from the channel's largest one, together with the sign, becomes a symbol, and the mantissa stays as it is.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes

Words = NDArray[np.uint16] | NDArray[np.uint32]
"""Floats as unsigned integers of their size."""


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary format of IEEE 754's kind: sign, exponent, mantissa, from the highest bit to the lowest.

    Attributes:
        width: bytes, 2 or 4.
        mantissa_bits: 1 or more, and few enough to leave 1 to 8 bits for the exponent.

    Raises:
        ValueError: another format.
    """

    width: int
    mantissa_bits: int

    def __post_init__(self) -> None:
        if self.width not in (2, 4) or self.mantissa_bits < 1 or not 1 <= self.exponent_bits <= 8:
            raise ValueError(f"expected 2 or 4 bytes and an exponent of 1 to 8 bits; got {self}")

    @property
    def exponent_bits(self) -> int:
        """Bits of the exponent."""
        return 8 * self.width - 1 - self.mantissa_bits

    @property
    def planes(self) -> int:
        """Bytes that a mantissa needs."""
        return -(-self.mantissa_bits // 8)

    @property
    def words(self) -> "np.dtype[np.uint16] | np.dtype[np.uint32]":
        """NumPy type of a float's bits."""
        return np.dtype(np.uint16) if self.width == 2 else np.dtype(np.uint32)


BFLOAT16 = FloatFormat(2, 7)
FLOAT16 = FloatFormat(2, 10)
FLOAT32 = FloatFormat(4, 23)


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """What the symbols of a channel are relative to.

    Attributes:
        tops: uint8 `[channels]`, an exponent: that of symbols 0 and 1.
        flips: uint8 `[channels]`, 0 or 1: the sign bit of even symbols.
        octaves: how many exponents down from the top have symbols, 1 to 127.

    Raises:
        ValueError: other types, shapes or numbers.
    """

    tops: Bytes
    flips: Bytes
    octaves: int

    def __post_init__(self) -> None:
        if self.tops.dtype != np.uint8 or self.flips.dtype != np.uint8:
            raise TypeError(f"expected anchors of uint8; got {self.tops.dtype} and {self.flips.dtype}")
        if self.tops.ndim != 1 or self.tops.shape != self.flips.shape or int(self.flips.max(initial=0)) > 1:
            raise ValueError(f"expected tops and flips [channels], flips 0 or 1; got {self.tops.shape} {self.flips}")
        if not 1 <= self.octaves <= 127:
            raise ValueError(f"expected 1 to 127 octaves; got {self.octaves}")

    @property
    def escape(self) -> int:
        """The symbol of exponents that have none; the alphabet ends with it."""
        return 2 * self.octaves


@dataclass(frozen=True, slots=True, eq=False)
class SplitFloats:
    """Floats in parts.

    Attributes:
        symbols: uint8 `[tokens, channels]`: `2 * (top - exponent) + (sign ^ flip)`, or the escape.
        escapes: uint16 `[n]`: sign and exponent of every escape, as the word's bits above the mantissa, in the order
            of `symbols` (row-major).
        mantissas: uint8 `[planes, tokens, channels]`: plane 0 the lowest eight bits, and so on.
    """

    symbols: Bytes
    escapes: NDArray[np.uint16]
    mantissas: Bytes


class FloatKernels(Protocol):
    """Floats to parts and back, to the bit, NaN payloads included.

    Arrays are C-contiguous; results are new arrays that the caller owns. Every method raises ValueError for shapes that
    do not fit together, and TypeError for another dtype.
    """

    def exponent_counts(self, words: Words, float_format: FloatFormat, tops: Bytes, octaves: int) -> NDArray[np.uint32]:
        """Count, per channel, the signs and exponents of `words` `[tokens, channels]`.

        Returns:
            `[channels, 2 * octaves + 1]`: at `2 * k + sign` how many have the exponent `tops - k`, k below `octaves`
            (1 to 127); at the end how many have another.
        """

    def split_floats(self, words: Words, float_format: FloatFormat, anchors: Anchors) -> SplitFloats:
        """Take `words` `[tokens, channels]` apart."""

    def merge_floats(self, parts: SplitFloats, float_format: FloatFormat, anchors: Anchors) -> Words:
        """Undo `split_floats`. Bits of the planes beyond the mantissa are ignored.

        Raises:
            ValueError: a symbol beyond the escape, or of an exponent below 0; more or fewer escapes than the symbols
                have; one that is no sign and exponent, or that needs no escape.
        """

    def pack_bits(self, values: Bytes, bits: int) -> Bytes:
        """The lowest `bits` bits of every value, one after the other from the lowest bit of the first byte on.

        Args:
            values: `[n]`. Bits beyond are ignored.
            bits: 1 to 7.

        Returns:
            `[bits * ceil(n / 8)]`; bits left over are 0.
        """

    def unpack_bits(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """Undo `pack_bits` of `count` values.

        Raises:
            ValueError: another size, or bits left over that are not 0.
        """
