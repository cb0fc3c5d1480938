"""Lane-interleaved rANS in NumPy, one step for all lanes at once: the readable twin of docs/entropy.md."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import LARGEST_QUANTUM, TOTAL, Bytes, FrequencyTables, RealType, check_size, lanes_for

HEADER = struct.Struct("<BBBBIII")
VERSION = 1
LANES_CODES = {32: 0, 64: 1, 128: 2}
BITS = 11
LOWEST = 1 << 16


class ReferenceRans:
    """NumPy backend; see `kvquilt_kernels.entropy.EntropyKernels`."""

    def rans_encode(
        self, symbols: Bytes, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None = None
    ) -> Bytes:
        """See `EntropyKernels.rans_encode`."""
        _check_array("symbols", symbols, np.uint8)
        tokens, channels = symbols.shape
        table = _tables_of_symbols(tokens, channels, tables, table_ids, contexts)
        if int(symbols.max()) >= tables.alphabet:
            raise ValueError(f"expected symbols below {tables.alphabet}; got {symbols.max()}")
        frequencies = tables.frequencies[table, symbols].astype(np.uint64)
        starts = _starts(tables)[table, symbols]
        lanes = lanes_for(tokens, channels)
        states = np.full(lanes, LOWEST, np.uint64)
        emitted: list[NDArray[Any]] = []
        for group in reversed(range(0, channels, lanes)):
            columns = slice(group, min(group + lanes, channels))
            x = states[: columns.stop - group]
            for token in reversed(range(tokens)):
                f, c = frequencies[token, columns], starts[token, columns]
                full = (x >> (32 - BITS)) >= f
                emitted.append(x[full] & 0xFFFF)
                x[full] >>= 16
                x[:] = ((x // f) << BITS) + x % f + c
        words = np.concatenate(emitted[::-1]).astype("<u2")
        header = HEADER.pack(VERSION, LANES_CODES[lanes], tables.alphabet - 1, 0, tokens, channels, words.size)
        return np.frombuffer(header + states.astype("<u4").tobytes() + words.tobytes(), np.uint8).copy()

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
        table = _tables_of_symbols(tokens, channels, tables, table_ids, contexts)
        lanes = lanes_for(tokens, channels)
        states, words = _parse(block, tokens, channels, tables.alphabet, lanes)
        symbol_at = np.stack([np.repeat(np.arange(tables.alphabet, dtype=np.uint8), f) for f in tables.frequencies])
        starts = _starts(tables)
        symbols = np.empty((tokens, channels), np.uint8)
        consumed = 0
        for group in range(0, channels, lanes):
            columns = slice(group, min(group + lanes, channels))
            x = states[: columns.stop - group]
            for token in range(tokens):
                ids = table[token, columns]
                slot = x & (TOTAL - 1)
                symbol = symbol_at[ids, slot]
                x[:] = tables.frequencies[ids, symbol] * (x >> BITS) + slot - starts[ids, symbol]
                low = x < LOWEST
                taken = words[consumed : consumed + int(low.sum())]
                consumed += int(low.sum())
                if consumed > words.size:
                    raise ValueError("the block has fewer words than its symbols need")
                x[low] = (x[low] << 16) | taken
                symbols[token, columns] = symbol
        if consumed != words.size or (states != LOWEST).any():
            raise ValueError("the block does not end where its encoder began: damaged, or made with other tables")
        return symbols

    def quantise_encode(
        self, values: NDArray[np.float32], step: float, tables: FrequencyTables, table_ids: Bytes
    ) -> tuple[Bytes, NDArray[np.int32]]:
        """See `EntropyKernels.quantise_encode`."""
        _check_array("values", values, np.float32)
        largest = _largest_symbol_value(tables)
        _, inverse = _scales(step)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            product = values * inverse
            limited = np.where(product > -LARGEST_QUANTUM, product, np.float32(-LARGEST_QUANTUM))
            limited = np.where(limited < LARGEST_QUANTUM, limited, np.float32(LARGEST_QUANTUM))
        quanta = np.rint(limited).astype(np.int32)
        escaped = np.abs(quanta) > largest
        symbols = np.where(escaped, tables.alphabet - 1, quanta + largest).astype(np.uint8)
        return self.rans_encode(symbols, tables, _one_row(table_ids)), quanta[escaped]

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
        largest = _largest_symbol_value(tables)
        if escapes.dtype != np.int32:
            raise TypeError(f"expected int32 escapes; got {escapes.dtype}")
        magnitudes = np.abs(escapes.astype(np.int64))
        if escapes.ndim != 1 or ((magnitudes <= largest) | (magnitudes > LARGEST_QUANTUM)).any():
            raise ValueError(f"expected escapes [n] of magnitudes {largest + 1} to 2^30")
        symbols = self.rans_decode(block, tokens, channels, tables, _one_row(table_ids))
        escaped = symbols == tables.alphabet - 1
        if int(escaped.sum()) != escapes.size:
            raise ValueError(f"expected {int(escaped.sum())} escapes, as many as the block has; got {escapes.size}")
        quanta = symbols.astype(np.int32) - largest
        quanta[escaped] = escapes
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
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f'expected "float32" or "bfloat16"; got {dtype!r}')
        scale, _ = _scales(step)
        quanta = self.decode_quantised(block, escapes, tokens, channels, tables, table_ids)
        with np.errstate(over="ignore", under="ignore"):
            values: NDArray[np.float32] = quanta.astype(np.float32) * scale
        if dtype == "float32":
            return values
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _scales(step: float) -> tuple[np.float32, np.float32]:
    """float32(step) and float32(1 / step); ValueError if one is 0, Inf or NaN, or the step is negative."""
    with np.errstate(over="ignore", under="ignore"):
        pair = np.float32(step), np.float32(1 / float(step) if step > 0 else 0)
    if not all(0 < scale < np.inf for scale in pair):
        raise ValueError(f"expected a positive step, it and its inverse within float32; got {step}")
    return pair


def _largest_symbol_value(tables: FrequencyTables) -> int:
    """R of an alphabet that ends with an escape; ValueError if the alphabet is odd."""
    if tables.alphabet % 2:
        raise ValueError(f"expected an even alphabet, its last symbol the escape; got {tables.alphabet} symbols")
    return (tables.alphabet - 2) // 2


def _parse(
    block: Bytes, tokens: int, channels: int, alphabet: int, lanes: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """States and words of a block that is what the caller expects."""
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
    states = np.frombuffer(block[HEADER.size : begin].tobytes(), "<u4").astype(np.uint64)
    if (states < LOWEST).any():
        raise ValueError(f"expected states of at least {LOWEST}; got {states.min()}")
    return states, np.frombuffer(block[begin:].tobytes(), "<u2").astype(np.uint64)


def _tables_of_symbols(
    tokens: int, channels: int, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None
) -> NDArray[np.uint8]:
    check_size(tokens, channels)
    _check_array("table_ids", table_ids, np.uint8)
    if table_ids.shape[0] < 1 or table_ids.shape[1] != channels:
        raise ValueError(f"expected table ids [contexts, {channels}]; got {table_ids.shape}")
    if int(table_ids.max()) >= tables.count:
        raise ValueError(f"expected table ids below {tables.count}; got {table_ids.max()}")
    if contexts is None:
        return np.broadcast_to(table_ids[0], (tokens, channels))
    _check_array("contexts", contexts, np.uint8)
    if contexts.shape != (tokens, channels) or int(contexts.max()) >= table_ids.shape[0]:
        raise ValueError(f"expected contexts [{tokens}, {channels}] below {table_ids.shape[0]}; got {contexts.shape}")
    return table_ids[contexts, np.arange(channels)]


def _check_array(name: str, array: NDArray[Any], dtype: type[np.generic]) -> None:
    if array.dtype != dtype:
        raise TypeError(f"expected {name} of {np.dtype(dtype)}; got {array.dtype}")
    if array.ndim != 2 or (name in ("symbols", "values") and not array.size):
        raise ValueError(f"expected {name} with two dimensions, neither empty; got {array.shape}")


def _one_row(table_ids: Bytes) -> Bytes:
    if table_ids.ndim != 2 or table_ids.shape[0] != 1:
        raise ValueError(f"expected table ids [1, channels]; got {table_ids.shape}")
    return table_ids


def _starts(tables: FrequencyTables) -> NDArray[np.uint64]:
    frequencies = tables.frequencies.astype(np.uint64)
    return np.cumsum(frequencies, axis=1) - frequencies
