"""The vocabulary of the kernels: what every backend does, to the bit (matrix products apart)."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes, EntropyKernels, FrequencyTables, RealType, frequencies_from_weights
from kvquilt_kernels.floats import Anchors, FloatFormat, FloatKernels, SplitFloats, Words
from kvquilt_kernels.products import Floats, PreparedMatrix, ProductKernels

__all__ = [
    "Anchors",
    "BackendUnavailableError",
    "Bytes",
    "EntropyKernels",
    "FloatFormat",
    "FloatKernels",
    "Floats",
    "FrequencyTables",
    "Kernels",
    "PreparedMatrix",
    "ProductKernels",
    "RealType",
    "SplitFloats",
    "Words",
    "frequencies_from_weights",
]


class BackendUnavailableError(Exception):
    """This installation or this machine lacks what a backend needs; the message says what."""


class Kernels(EntropyKernels, FloatKernels, ProductKernels, Protocol):
    """What the codec computes. Backends give identical bytes (tests/kernels holds the parity matrix), but for the last
    digits of matrix products.

    All arrays are C-contiguous; results are new arrays that the caller owns.
    """

    @property
    def name(self) -> str:
        """Name of the backend: "native", "triton" or "reference"."""

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
