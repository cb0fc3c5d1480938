"""The kernels in C++ (`kernels/native`); the GIL is released while they run."""

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels import _native
from kvquilt_kernels.floats_native import NativeFloats
from kvquilt_kernels.products_native import NativeProducts
from kvquilt_kernels.rans_native import NativeRans, instruction_sets

__all__ = ["NativeKernels", "instruction_sets"]


class NativeKernels(NativeRans, NativeFloats, NativeProducts):
    """C++ backend; see `kvquilt_kernels.types.Kernels`. `isa` chooses what the kernels run on."""

    name = "native"

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
