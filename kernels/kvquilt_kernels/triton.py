"""The kernels with the entropy decoder on a GPU, in Triton; `pip install kvquilt[triton]`."""

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_kernels.rans_triton import TritonRans
from kvquilt_kernels.types import Anchors, Bytes, FloatFormat, Floats, Kernels, PreparedMatrix, SplitFloats, Words


class TritonKernels(TritonRans):
    """Triton backend; see `kvquilt_kernels.types.Kernels`. What is not entropy decoding, `host` does.

    Args:
        host: another backend.
        device: a CUDA device; None takes the current one, or the CPU where the kernels are interpreted.

    Raises:
        BackendUnavailableError: no GPU, and the kernels are not interpreted.
    """

    name = "triton"

    def __init__(self, host: Kernels, device: torch.device | None = None) -> None:
        super().__init__(host, device)
        self._kernels = host

    def exponent_counts(self, words: Words, float_format: FloatFormat, tops: Bytes, octaves: int) -> NDArray[np.uint32]:
        """See `Kernels.exponent_counts`; on the host."""
        return self._kernels.exponent_counts(words, float_format, tops, octaves)

    def split_floats(self, words: Words, float_format: FloatFormat, anchors: Anchors) -> SplitFloats:
        """See `Kernels.split_floats`; on the host."""
        return self._kernels.split_floats(words, float_format, anchors)

    def merge_floats(self, parts: SplitFloats, float_format: FloatFormat, anchors: Anchors) -> Words:
        """See `Kernels.merge_floats`; on the host."""
        return self._kernels.merge_floats(parts, float_format, anchors)

    def pack_bits(self, values: Bytes, bits: int) -> Bytes:
        """See `Kernels.pack_bits`; on the host."""
        return self._kernels.pack_bits(values, bits)

    def unpack_bits(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """See `Kernels.unpack_bits`; on the host."""
        return self._kernels.unpack_bits(packed, bits, count)

    def quantise_rows(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
        """See `Kernels.quantise_rows`; on the host."""
        return self._kernels.quantise_rows(values)

    def dequantise_rows(self, codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        """See `Kernels.dequantise_rows`; on the host."""
        return self._kernels.dequantise_rows(codes, scales)

    def prepare_matrix(self, matrix: Floats) -> PreparedMatrix:
        """See `Kernels.prepare_matrix`; on the host."""
        return self._kernels.prepare_matrix(matrix)

    def multiply(self, x: Floats, matrix: PreparedMatrix, added: Floats | None = None) -> Floats:
        """See `Kernels.multiply`; on the host."""
        return self._kernels.multiply(x, matrix, added)
