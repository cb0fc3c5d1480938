"""The kernels in NumPy: the readable specification, and what runs where no compiler was at install time."""

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.floats_reference import ReferenceFloats
from kvquilt_kernels.products_reference import ReferenceProducts
from kvquilt_kernels.rans_reference import ReferenceRans


class ReferenceKernels(ReferenceRans, ReferenceFloats, ReferenceProducts):
    """NumPy backend; see `kvquilt_kernels.types.Kernels`."""

    name = "reference"

    def quantise_rows(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
        """See `Kernels.quantise_rows`."""
        largest = np.abs(values).max(axis=1, initial=0.0).astype(np.float32)
        bits = (largest / np.float32(127)).view(np.uint32)
        rounded = (bits >> np.uint32(16)) + ((bits & np.uint32(0xFFFF)) != 0)
        scales = np.minimum(rounded, 0x7F7F).astype(np.uint16)
        scale = _scale_values(scales)
        with np.errstate(divide="ignore", invalid="ignore"):
            codes = np.rint(values / scale[:, None])
        codes = np.where(scale[:, None] == 0, np.float32(0), codes)
        return np.clip(codes, -127, 127).astype(np.int8), scales

    def dequantise_rows(self, codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        """See `Kernels.dequantise_rows`."""
        if scales.shape != codes.shape[:1]:
            raise ValueError(f"expected one scale a row; got {scales.shape} for codes {codes.shape}")
        with np.errstate(over="ignore"):  # the product of a large scale is Inf, as in C++
            return codes.astype(np.float32) * _scale_values(scales)[:, None]


def _scale_values(scales: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)
