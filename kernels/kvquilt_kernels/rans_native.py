"""The entropy coder in C++ (`kernels/native/rans*.cpp`) with the instruction set that was chosen."""

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels import _native
from kvquilt_kernels.entropy import Bytes, FrequencyTables, RealType, check_size

# What C++ derives from tables (up to 0.8 MB, 0.1 ms of work) is kept for as long as they are: a profile's tables serve
# every block. Two threads may both derive it; either result will do.
_derived: "WeakKeyDictionary[FrequencyTables, _native.Tables]" = WeakKeyDictionary()


def instruction_sets() -> list[str]:
    """What this CPU can run of "avx512" (with VBMI2), "avx2" and "portable", the fastest first."""
    return _native.instruction_sets()


def _tables(tables: FrequencyTables) -> "_native.Tables":
    derived = _derived.get(tables)
    if derived is None:
        derived = _derived[tables] = _native.Tables(tables.frequencies)
    return derived


class NativeRans:
    """C++ backend; see `kvquilt_kernels.entropy.EntropyKernels`.

    Args:
        isa: one of `instruction_sets()`; None takes the fastest.

    Raises:
        ValueError: an instruction set that this CPU cannot run.
    """

    def __init__(self, isa: str | None = None) -> None:
        able = instruction_sets()
        if isa is not None and isa not in able:
            raise ValueError(f"expected one of {able}, which this CPU can run; got {isa!r}")
        self.isa = able[0] if isa is None else isa

    def rans_encode(
        self, symbols: Bytes, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None = None
    ) -> Bytes:
        """See `EntropyKernels.rans_encode`."""
        return _native.rans_encode(self.isa, symbols, _tables(tables), table_ids, contexts)

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
        check_size(tokens, channels)
        symbols = np.empty((tokens, channels), np.uint8)
        _native.rans_decode(self.isa, block, _tables(tables), table_ids, contexts, symbols)
        return symbols

    def quantise_encode(
        self, values: NDArray[np.float32], step: float, tables: FrequencyTables, table_ids: Bytes
    ) -> tuple[Bytes, NDArray[np.int32]]:
        """See `EntropyKernels.quantise_encode`."""
        return _native.quantise_encode(self.isa, values, step, _tables(tables), table_ids)

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
        check_size(tokens, channels)
        quanta = np.empty((tokens, channels), np.int32)
        _native.decode_int32(self.isa, block, escapes, 1.0, _tables(tables), table_ids, quanta)
        return quanta

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
        check_size(tokens, channels)
        if dtype == "bfloat16":
            bits = np.empty((tokens, channels), np.uint16)
            _native.decode_bfloat16(self.isa, block, escapes, step, _tables(tables), table_ids, bits)
            return bits
        if dtype != "float32":
            raise ValueError(f'expected "float32" or "bfloat16"; got {dtype!r}')
        values = np.empty((tokens, channels), np.float32)
        _native.decode_float32(self.isa, block, escapes, step, _tables(tables), table_ids, values)
        return values
