"""The kernels with the entropy decoder on a GPU, in Triton; `pip install kvquilt[triton]`."""

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_kernels.rans_triton import TritonRans
from kvquilt_kernels.types import Bytes, Kernels


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

    def split_planes(self, words: Bytes, width: int) -> Bytes:
        """See `Kernels.split_planes`; on the host."""
        return self._kernels.split_planes(words, width)

    def merge_planes(self, planes: Bytes, width: int) -> Bytes:
        """See `Kernels.merge_planes`; on the host."""
        return self._kernels.merge_planes(planes, width)

    def quantise_rows(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
        """See `Kernels.quantise_rows`; on the host."""
        return self._kernels.quantise_rows(values)

    def dequantise_rows(self, codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        """See `Kernels.dequantise_rows`; on the host."""
        return self._kernels.dequantise_rows(codes, scales)
