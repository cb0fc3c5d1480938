import numpy as np
from numpy.typing import NDArray

_Words = NDArray[np.uint16] | NDArray[np.uint32]

def exponent_counts(
    isa: str, words: _Words, mantissa_bits: int, tops: NDArray[np.uint8], counts: NDArray[np.uint32]
) -> None: ...
def split_floats(
    isa: str,
    words: _Words,
    mantissa_bits: int,
    tops: NDArray[np.uint8],
    flips: NDArray[np.uint8],
    octaves: int,
    symbols: NDArray[np.uint8],
    mantissas: NDArray[np.uint8],
) -> NDArray[np.uint16]: ...
def merge_floats(
    isa: str,
    symbols: NDArray[np.uint8],
    escapes: NDArray[np.uint16],
    mantissas: NDArray[np.uint8],
    mantissa_bits: int,
    tops: NDArray[np.uint8],
    flips: NDArray[np.uint8],
    octaves: int,
    words: _Words,
) -> None: ...
def pack_bits(values: NDArray[np.uint8], bits: int, packed: NDArray[np.uint8]) -> None: ...
def unpack_bits(packed: NDArray[np.uint8], bits: int, values: NDArray[np.uint8]) -> None: ...
def quantise_rows(values: NDArray[np.float32], codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> None: ...
def dequantise_rows(codes: NDArray[np.int8], scales: NDArray[np.uint16], values: NDArray[np.float32]) -> None: ...

class Tables:
    def __init__(self, frequencies: NDArray[np.uint16]) -> None: ...

def instruction_sets() -> list[str]: ...
def rans_encode(
    isa: str,
    symbols: NDArray[np.uint8],
    tables: Tables,
    table_ids: NDArray[np.uint8],
    contexts: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]: ...
def rans_decode(
    isa: str,
    block: NDArray[np.uint8],
    tables: Tables,
    table_ids: NDArray[np.uint8],
    contexts: NDArray[np.uint8] | None,
    symbols: NDArray[np.uint8],
) -> None: ...
def quantise_encode(
    isa: str, values: NDArray[np.float32], step: float, tables: Tables, table_ids: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]: ...
def decode_int32(
    isa: str,
    block: NDArray[np.uint8],
    escapes: NDArray[np.int32],
    step: float,
    tables: Tables,
    table_ids: NDArray[np.uint8],
    out: NDArray[np.int32],
) -> None: ...
def decode_float32(
    isa: str,
    block: NDArray[np.uint8],
    escapes: NDArray[np.int32],
    step: float,
    tables: Tables,
    table_ids: NDArray[np.uint8],
    out: NDArray[np.float32],
) -> None: ...
def decode_bfloat16(
    isa: str,
    block: NDArray[np.uint8],
    escapes: NDArray[np.int32],
    step: float,
    tables: Tables,
    table_ids: NDArray[np.uint8],
    out: NDArray[np.uint16],
) -> None: ...

class Matrix:
    def __init__(self, values: NDArray[np.float32]) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...

def multiply(
    isa: str,
    x: NDArray[np.float32],
    matrix: Matrix,
    added: NDArray[np.float32] | None,
    out: NDArray[np.float32],
) -> None: ...
