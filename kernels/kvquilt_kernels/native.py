"""The kernels in C++ (`kernels/native`); the GIL is released while they run."""

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels import _native
from kvquilt_kernels.rans_native import NativeRans, instruction_sets
from kvquilt_kernels.types import Bytes

__all__ = ["NativeKernels", "instruction_sets"]


class NativeKernels(NativeRans):
    """C++ backend; see `kvquilt_kernels.types.Kernels`. `isa` chooses what the entropy coder runs on."""

    name = "native"

    def split_planes(self, words: Bytes, width: int) -> Bytes:
        """See `Kernels.split_planes`."""
        planes = np.empty_like(words)
        _native.split_planes(words, width, planes)
        return planes

    def merge_planes(self, planes: Bytes, width: int) -> Bytes:
        """See `Kernels.merge_planes`."""
        words = np.empty_like(planes)
        _native.merge_planes(planes, width, words)
        return words

    def quantise_rows(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
        """See `Kernels.quantise_rows`."""
        codes = np.empty(values.shape, np.int8)
        scales = np.empty(values.shape[0], np.uint16)
        _native.quantise_rows(values, codes, scales)
        return codes, scales

    def dequantise_rows(self, codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        """See `Kernels.dequantise_rows`."""
        values = np.empty(codes.shape, np.float32)
        _native.dequantise_rows(codes, scales, values)
        return values
