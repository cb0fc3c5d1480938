"""The entropy decoder in Triton for one block at a time, from and to NumPy arrays."""

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes, EntropyKernels, FrequencyTables, RealType
from kvquilt_kernels.rans_block import check_indices, check_one_row
from kvquilt_kernels.rans_streams import StreamError
from kvquilt_kernels.rans_triton_batch import BatchDecoder


class TritonRans:
    """Triton backend; see `kvquilt_kernels.entropy.EntropyKernels`.

    Decodes on a GPU, one block a call: for tests, and where a caller has no more. A GPU is worth its while with
    `decoder`, which takes batches and leaves the results on the device. There is no encoder in Triton: KV is encoded
    once, in the background, and `host` does it, to the same bytes.

    Args:
        host: the backend that encodes.
        device: as for `BatchDecoder`.
    """

    def __init__(self, host: EntropyKernels, device: torch.device | None = None) -> None:
        self.decoder = BatchDecoder(device)
        self._host = host

    def rans_encode(
        self, symbols: Bytes, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None = None
    ) -> Bytes:
        """See `EntropyKernels.rans_encode`; on the host."""
        return self._host.rans_encode(symbols, tables, table_ids, contexts)

    def rans_decode(
        self,
        block: Bytes,
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: Bytes,
        contexts: Bytes | None = None,
    ) -> Bytes:
        """See `EntropyKernels.rans_decode`."""
        check_indices(tokens, channels, tables, table_ids, contexts)
        given = None if contexts is None else _one(contexts)
        try:
            symbols = self.decoder.symbols([block], tokens, channels, tables, _one(table_ids), given)
        except StreamError as error:
            raise ValueError(error.faults[0]) from None
        decoded: Bytes = symbols[0].cpu().numpy()
        return decoded

    def quantise_encode(
        self, values: NDArray[np.float32], step: float, tables: FrequencyTables, table_ids: Bytes
    ) -> tuple[Bytes, NDArray[np.int32]]:
        """See `EntropyKernels.quantise_encode`; on the host."""
        return self._host.quantise_encode(values, step, tables, table_ids)

    def decode_quantised(
        self,
        block: Bytes,
        escapes: NDArray[np.int32],
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: Bytes,
    ) -> NDArray[np.int32]:
        """See `EntropyKernels.decode_quantised`."""
        check_one_row(table_ids)
        check_indices(tokens, channels, tables, table_ids, None)
        try:
            quanta = self.decoder.quantised([block], [escapes], tokens, channels, tables, _one(table_ids))
        except StreamError as error:
            raise ValueError(error.faults[0]) from None
        decoded: NDArray[np.int32] = quanta[0].cpu().numpy()
        return decoded

    def decode_dequantise(
        self,
        block: Bytes,
        escapes: NDArray[np.int32],
        tokens: int,
        channels: int,
        step: float,
        tables: FrequencyTables,
        table_ids: Bytes,
        dtype: RealType,
    ) -> NDArray[np.float32] | NDArray[np.uint16]:
        """See `EntropyKernels.decode_dequantise`."""
        check_one_row(table_ids)
        check_indices(tokens, channels, tables, table_ids, None)
        ids = _one(table_ids)
        try:
            values = self.decoder.dequantised([block], [escapes], tokens, channels, [step], tables, ids, dtype)
        except StreamError as error:
            raise ValueError(error.faults[0]) from None
        if dtype == "bfloat16":
            bits: NDArray[np.uint16] = values[0].view(torch.uint16).cpu().numpy()
            return bits
        reals: NDArray[np.float32] = values[0].cpu().numpy()
        return reals


def _one(array: Bytes) -> torch.Tensor:
    """A batch of one; a copy, for torch takes no array that is read-only."""
    return torch.from_numpy(array.copy())[None]
