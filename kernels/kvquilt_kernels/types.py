"""The vocabulary of the kernels: what every backend does, to the bit."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes, EntropyKernels, FrequencyTables, RealType, frequencies_from_weights

__all__ = ["Bytes", "EntropyKernels", "FrequencyTables", "Kernels", "RealType", "frequencies_from_weights"]


class Kernels(EntropyKernels, Protocol):
    """Byte-level operations of the codec. Backends give identical bytes (tests/kernels holds the parity matrix).

    All arrays are C-contiguous; results are new arrays that the caller owns.
    """

    @property
    def name(self) -> str:
        """Name of the backend: "native" or "reference"."""

    def split_planes(self, words: Bytes, width: int) -> Bytes:
        """Rotate every little-endian word left by one bit, then gather equal bytes of all words into planes.

        The rotation moves the sign below the mantissa, so that a bfloat16 or float32 word's top byte is its exponent:
        the one part of a KV tensor that a general-purpose compressor can shrink.

        Args:
            words: `[count * width]`, `count` words of `width` bytes.
            width: 2 or 4.

        Returns:
            `[width * count]`: plane 0 holds the lowest byte of every word, the last plane the highest.

        Raises:
            ValueError: another width, or a size that is no multiple of it.
        """

    def merge_planes(self, planes: Bytes, width: int) -> Bytes:
        """Undo `split_planes`."""

    def quantise_rows(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
        """Quantise rows to symmetric int8 with one bfloat16 scale a row.

        `scale` is the smallest bfloat16 at or above `max|row| / 127`; `code = round_half_even(value / scale)`.

        Args:
            values: `[rows, width]`, finite.

        Returns:
            Codes `[rows, width]` in -127..127, and the scales' bfloat16 bits `[rows]`.
        """

    def dequantise_rows(self, codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Return `codes * scale` in float32, `[rows, width]`."""
