"""The kernels in NumPy: the readable specification, and what runs where no compiler was at install time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.rans_reference import ReferenceRans
from kvquilt_kernels.types import Bytes

_WORD: "dict[int, np.dtype[Any]]" = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def _word_type(size: int, width: int) -> "np.dtype[Any]":
    if width not in _WORD or size % width:
        raise ValueError(f"expected a word width of 2 or 4 that divides the size; got width {width}, size {size}")
    return _WORD[width]


class ReferenceKernels(ReferenceRans):
    """NumPy backend; see `kvquilt_kernels.types.Kernels`."""

    name = "reference"

    def split_planes(self, words: Bytes, width: int) -> Bytes:
        """See `Kernels.split_planes`."""
        word = words.view(_word_type(words.size, width))
        rotated = (word << word.dtype.type(1)) | (word >> word.dtype.type(8 * width - 1))
        return np.ascontiguousarray(rotated.view(np.uint8).reshape(-1, width).T).reshape(-1)

    def merge_planes(self, planes: Bytes, width: int) -> Bytes:
        """See `Kernels.merge_planes`."""
        word_type = _word_type(planes.size, width)
        rotated = np.ascontiguousarray(planes.reshape(width, -1).T).reshape(-1).view(word_type)
        word = (rotated >> word_type.type(1)) | (rotated << word_type.type(8 * width - 1))
        words: Bytes = word.view(np.uint8)
        return words

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
