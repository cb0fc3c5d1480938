"""Entropy coder: speed on one core for every instruction set, and size against the tables' entropy.

Values are Laplace-distributed with a width a channel, and 64 tables of discretised Laplace distributions code them;
`ternary` has symbols of a refinement with 5 contexts. The last columns are decoding to bfloat16, to float32 and to
symbols. Writes results/entropy.json.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.native import NativeKernels, instruction_sets
from kvquilt_kernels.types import Bytes, FrequencyTables, frequencies_from_weights
from report import publish
from timing import median_seconds

TOKENS, RUNS, TABLES = 256, 41, 64


def gsymbols(count: int, call: Callable[[], Any]) -> float:
    """Symbols per nanosecond."""
    return count / median_seconds(call, RUNS) / 1e9


def laplace(width: float, alphabet: int) -> NDArray[np.float64]:
    """Probabilities of the integers -R to R and, last, of all others."""
    edges = np.arange(alphabet) - (alphabet - 2) / 2 - 0.5
    below = np.where(edges < 0, 0.5 * np.exp(-np.abs(edges) / width), 1 - 0.5 * np.exp(-np.abs(edges) / width))
    inside = np.diff(below)
    return np.append(inside, max(0.0, 1 - inside.sum()))


def entropy(tables: FrequencyTables, table_ids: Bytes, contexts: Bytes, symbols: Bytes) -> float:
    """Bits a symbol that the tables promise for these symbols."""
    coded = tables.frequencies[table_ids[contexts, np.arange(symbols.shape[1])], symbols]
    return float(-np.log2(coded / 2048).mean())


def quantised(alphabet: int, channels: int, isa: str) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    widths = np.geomspace(0.25, alphabet / 10, TABLES)
    tables = FrequencyTables(frequencies_from_weights(np.stack([laplace(width, alphabet) for width in widths])))
    ids = rng.integers(TABLES // 4, TABLES - 8, (1, channels), dtype=np.uint8)
    values = (rng.laplace(size=(TOKENS, channels)) * widths[ids[0]]).astype(np.float32)
    kernels = NativeKernels(isa)
    block, escapes = kernels.quantise_encode(values, 1.0, tables, ids)
    shape = (TOKENS, channels)
    symbols = kernels.rans_decode(block, *shape, tables, ids)
    return {
        "isa": isa,
        "case": f"A={alphabet}, C={channels}",
        "bits": 8 * block.size / symbols.size,
        "table_entropy": entropy(tables, ids, np.zeros_like(symbols), symbols),
        "escapes_%": 100 * escapes.size / symbols.size,
        "encode_gsym_s": gsymbols(symbols.size, lambda: kernels.quantise_encode(values, 1.0, tables, ids)),
        **{
            f"{dtype}_gsym_s": gsymbols(
                symbols.size,
                lambda dtype=dtype: kernels.decode_dequantise(block, escapes, *shape, 1.0, tables, ids, dtype),
            )
            for dtype in ("bfloat16", "float32")
        },
        "symbols_gsym_s": gsymbols(symbols.size, lambda: kernels.rans_decode(block, *shape, tables, ids)),
    }


def ternary(channels: int, isa: str) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    tables = FrequencyTables(frequencies_from_weights(rng.random((TABLES, 3)) ** 2 + 0.05))
    ids = rng.integers(0, TABLES, (5, channels), dtype=np.uint8)
    contexts = np.minimum(rng.geometric(0.5, (TOKENS, channels)) - 1, 4).astype(np.uint8)
    ends = tables.frequencies.cumsum(axis=1)[ids[contexts, np.arange(channels)]]
    symbols = (rng.integers(0, 2048, contexts.shape)[..., None] >= ends).sum(axis=-1).astype(np.uint8)
    kernels = NativeKernels(isa)
    block = kernels.rans_encode(symbols, tables, ids, contexts)
    return {
        "isa": isa,
        "case": f"ternary, C={channels}",
        "bits": 8 * block.size / symbols.size,
        "table_entropy": entropy(tables, ids, contexts, symbols),
        "escapes_%": 0.0,
        "encode_gsym_s": gsymbols(symbols.size, lambda: kernels.rans_encode(symbols, tables, ids, contexts)),
        "bfloat16_gsym_s": "",
        "float32_gsym_s": "",
        "symbols_gsym_s": gsymbols(
            symbols.size, lambda: kernels.rans_decode(block, TOKENS, channels, tables, ids, contexts)
        ),
    }


def main() -> None:
    rows = []
    for isa in instruction_sets():
        rows += [
            quantised(alphabet, channels, isa) for alphabet, channels in ((16, 384), (16, 1024), (8, 384), (64, 384))
        ]
        rows += [ternary(channels, isa) for channels in (384, 1024)]
    conditions = {"tokens": TOKENS, "tables": TABLES, "runs": f"median of {RUNS}, one thread"}
    publish("entropy", conditions, rows)


if __name__ == "__main__":
    main()
