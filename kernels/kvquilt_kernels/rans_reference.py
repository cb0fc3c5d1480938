"""Lane-interleaved rANS in NumPy, one step for all lanes at once: the readable twin of docs/entropy.md."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import LARGEST_QUANTUM, TOTAL, Bytes, FrequencyTables, RealType, lanes_for
from kvquilt_kernels.rans_block import (
    BITS,
    HEADER,
    LANES_CODES,
    LOWEST,
    OTHER_END,
    VERSION,
    WORDS_MISSING,
    check_array,
    check_escapes,
    check_indices,
    check_one_row,
    largest_symbol_value,
    parse_block,
    scales,
    starts,
    symbols_of_slots,
    wrong_number_of_escapes,
)


class ReferenceRans:
    """NumPy backend; see `kvquilt_kernels.entropy.EntropyKernels`."""

    def rans_encode(
        self, symbols: Bytes, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None = None
    ) -> Bytes:
        """See `EntropyKernels.rans_encode`."""
        check_array("symbols", symbols, np.uint8)
        tokens, channels = symbols.shape
        table = _tables_of_symbols(tokens, channels, tables, table_ids, contexts)
        if int(symbols.max()) >= tables.alphabet:
            raise ValueError(f"expected symbols below {tables.alphabet}; got {symbols.max()}")
        frequencies = tables.frequencies[table, symbols].astype(np.uint64)
        cumulative = starts(tables)[table, symbols]
        lanes = lanes_for(tokens, channels)
        states = np.full(lanes, LOWEST, np.uint64)
        emitted: list[NDArray[Any]] = []
        for group in reversed(range(0, channels, lanes)):
            columns = slice(group, min(group + lanes, channels))
            x = states[: columns.stop - group]
            for token in reversed(range(tokens)):
                f, c = frequencies[token, columns], cumulative[token, columns]
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
        given_states, words = parse_block(block, tokens, channels, tables.alphabet, lanes)
        states = given_states.astype(np.uint64)
        symbol_at = symbols_of_slots(tables)
        cumulative = starts(tables)
        symbols = np.empty((tokens, channels), np.uint8)
        consumed = 0
        for group in range(0, channels, lanes):
            columns = slice(group, min(group + lanes, channels))
            x = states[: columns.stop - group]
            for token in range(tokens):
                ids = table[token, columns]
                slot = x & (TOTAL - 1)
                symbol = symbol_at[ids, slot]
                x[:] = tables.frequencies[ids, symbol] * (x >> BITS) + slot - cumulative[ids, symbol]
                low = x < LOWEST
                taken = words[consumed : consumed + int(low.sum())]
                consumed += int(low.sum())
                if consumed > words.size:
                    raise ValueError(WORDS_MISSING)
                x[low] = (x[low] << 16) | taken
                symbols[token, columns] = symbol
        if consumed != words.size or (states != LOWEST).any():
            raise ValueError(OTHER_END)
        return symbols

    def quantise_encode(
        self, values: NDArray[np.float32], step: float, tables: FrequencyTables, table_ids: Bytes
    ) -> tuple[Bytes, NDArray[np.int32]]:
        """See `EntropyKernels.quantise_encode`."""
        check_array("values", values, np.float32)
        largest = largest_symbol_value(tables)
        _, inverse = scales(step)
        check_one_row(table_ids)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            product = values * inverse
            limited = np.where(product > -LARGEST_QUANTUM, product, np.float32(-LARGEST_QUANTUM))
            limited = np.where(limited < LARGEST_QUANTUM, limited, np.float32(LARGEST_QUANTUM))
        quanta = np.rint(limited).astype(np.int32)
        escaped = np.abs(quanta) > largest
        symbols = np.where(escaped, tables.alphabet - 1, quanta + largest).astype(np.uint8)
        return self.rans_encode(symbols, tables, table_ids), quanta[escaped]

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
        largest = largest_symbol_value(tables)
        check_escapes(escapes, largest)
        check_one_row(table_ids)
        symbols = self.rans_decode(block, tokens, channels, tables, table_ids)
        escaped = symbols == tables.alphabet - 1
        if int(escaped.sum()) != escapes.size:
            raise ValueError(wrong_number_of_escapes(int(escaped.sum()), escapes.size))
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
        scale, _ = scales(step)
        quanta = self.decode_quantised(block, escapes, tokens, channels, tables, table_ids)
        with np.errstate(over="ignore", under="ignore"):
            values: NDArray[np.float32] = quanta.astype(np.float32) * scale
        if dtype == "float32":
            return values
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _tables_of_symbols(
    tokens: int, channels: int, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None
) -> NDArray[np.uint8]:
    check_indices(tokens, channels, tables, table_ids, contexts)
    if contexts is None:
        return np.broadcast_to(table_ids[0], (tokens, channels))
    return table_ids[contexts, np.arange(channels)]
