"""What a block and the arguments that go with it must be: the checks that the backends in Python share."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import LARGEST_QUANTUM, Bytes, FrequencyTables, check_size

HEADER = struct.Struct("<BBBBIII")
VERSION = 1
LANES_CODES = {32: 0, 64: 1, 128: 2}
BITS = 11
LOWEST = 1 << 16

WORDS_MISSING = "the block has fewer words than its symbols need"
OTHER_END = "the block does not end where its encoder began: damaged, or made with other tables"


def parse_block(
    block: Bytes, tokens: int, channels: int, alphabet: int, lanes: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """States `[lanes]` and words of a block that is what the caller expects; ValueError for another, or TypeError."""
    if block.dtype != np.uint8:
        raise TypeError(f"expected the bytes of a block; got {block.dtype}")
    begin = HEADER.size + 4 * lanes
    if block.ndim != 1 or block.size < begin:
        raise ValueError(f"expected a block of at least {begin} bytes; got shape {block.shape}")
    fields = HEADER.unpack(block[: HEADER.size].tobytes())
    expected = (VERSION, LANES_CODES[lanes], alphabet - 1, 0, tokens, channels)
    if fields[:-1] != expected:
        raise ValueError(f"expected a block with the header {expected}; got {fields[:-1]}")
    if block.size != begin + 2 * fields[-1]:
        raise ValueError(f"expected a block of the size of its {fields[-1]} words; got {block.size} bytes")
    states = np.frombuffer(block[HEADER.size : begin].tobytes(), "<u4")
    if (states < LOWEST).any():
        raise ValueError(f"expected states of at least {LOWEST}; got {states.min()}")
    return states, np.frombuffer(block[begin:].tobytes(), "<u2")


def check_array(name: str, array: NDArray[Any], dtype: type[np.generic]) -> None:
    """Raise TypeError for another dtype, ValueError for a shape that is not `[tokens, channels]`."""
    if array.dtype != dtype:
        raise TypeError(f"expected {name} of {np.dtype(dtype)}; got {array.dtype}")
    if array.ndim != 2 or (name in ("symbols", "values") and not array.size):
        raise ValueError(f"expected {name} with two dimensions, neither empty; got {array.shape}")


def check_indices(
    tokens: int, channels: int, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None
) -> None:
    """Raise ValueError or TypeError unless every context has a row of table ids, and every table id a table."""
    check_size(tokens, channels)
    check_array("table_ids", table_ids, np.uint8)
    if table_ids.shape[0] < 1 or table_ids.shape[1] != channels:
        raise ValueError(f"expected table ids [contexts, {channels}]; got {table_ids.shape}")
    if int(table_ids.max()) >= tables.count:
        raise ValueError(f"expected table ids below {tables.count}; got {table_ids.max()}")
    if contexts is None:
        return
    check_array("contexts", contexts, np.uint8)
    if contexts.shape != (tokens, channels) or int(contexts.max()) >= table_ids.shape[0]:
        raise ValueError(f"expected contexts [{tokens}, {channels}] below {table_ids.shape[0]}; got {contexts.shape}")


def check_one_row(table_ids: Bytes) -> None:
    """Raise ValueError for table ids that are not `[1, channels]`."""
    if table_ids.ndim != 2 or table_ids.shape[0] != 1:
        raise ValueError(f"expected table ids [1, channels]; got {table_ids.shape}")


def check_escapes(escapes: NDArray[np.int32], largest: int) -> None:
    """Raise TypeError or ValueError for a list of integers that holds one of at most `largest`, or beyond 2^30."""
    if escapes.dtype != np.int32:
        raise TypeError(f"expected int32 escapes; got {escapes.dtype}")
    magnitudes = np.abs(escapes.astype(np.int64))
    if escapes.ndim != 1 or ((magnitudes <= largest) | (magnitudes > LARGEST_QUANTUM)).any():
        raise ValueError(f"expected escapes [n] of magnitudes {largest + 1} to 2^30")


def wrong_number_of_escapes(found: int, given: int) -> str:
    """What to say of a list of escapes that is not the block's."""
    return f"expected {found} escapes, as many as the block has; got {given}"


def largest_symbol_value(tables: FrequencyTables) -> int:
    """R of an alphabet that ends with an escape; ValueError if the alphabet is odd."""
    if tables.alphabet % 2:
        raise ValueError(f"expected an even alphabet, its last symbol the escape; got {tables.alphabet} symbols")
    return (tables.alphabet - 2) // 2


def scales(step: float) -> tuple[np.float32, np.float32]:
    """float32(step) and float32(1 / step); ValueError if one is 0, Inf or NaN, or the step is negative."""
    with np.errstate(over="ignore", under="ignore"):
        pair = np.float32(step), np.float32(1 / float(step) if step > 0 else 0)
    if not all(0 < scale < np.inf for scale in pair):
        raise ValueError(f"expected a positive step, it and its inverse within float32; got {step}")
    return pair


def starts(tables: FrequencyTables) -> NDArray[np.uint64]:
    """Cumulative frequencies `[tables, alphabet]`: of every symbol, the sum of those below it."""
    frequencies = tables.frequencies.astype(np.uint64)
    return np.cumsum(frequencies, axis=1) - frequencies


def symbols_of_slots(tables: FrequencyTables) -> Bytes:
    """Symbol of every slot, `[tables, 2048]`."""
    return np.stack([np.repeat(np.arange(tables.alphabet, dtype=np.uint8), f) for f in tables.frequencies])
