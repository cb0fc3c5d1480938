"""Backends of the entropy coder, and blocks to try them on."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from kvquilt_kernels import Kernels, available
from kvquilt_kernels.reference import ReferenceKernels
from kvquilt_kernels.types import Bytes, FrequencyTables, frequencies_from_weights

REFERENCE = ReferenceKernels()


def every_backend() -> dict[str, Kernels]:
    """The reference, the native backend once for each instruction set of this CPU, Triton where it can run."""
    here = available()
    found: dict[str, Kernels] = {"reference": REFERENCE}
    if "triton" in here:
        found["triton"] = here["triton"]
    if "native" in here:
        from kvquilt_kernels.native import NativeKernels, instruction_sets

        found.update({f"native-{isa}": NativeKernels(isa) for isa in instruction_sets()})
    return found


BACKENDS = every_backend()
backends = pytest.mark.parametrize("kernels", BACKENDS.values(), ids=BACKENDS)


def random_tables(rng: np.random.Generator, count: int, alphabet: int) -> FrequencyTables:
    """Tables from flat to steep."""
    exponents = rng.uniform(0, 8, (count, 1))
    return FrequencyTables(frequencies_from_weights(rng.random((count, alphabet)) ** exponents))


def degenerate_tables(count: int, alphabet: int) -> FrequencyTables:
    """Tables of which one symbol has all but the least that the others must have."""
    frequencies = np.ones((count, alphabet), np.uint16)
    frequencies[np.arange(count), np.arange(count) * 7 % alphabet] = 2048 - (alphabet - 1)
    return FrequencyTables(frequencies)


def likely_symbols(
    rng: np.random.Generator, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None, tokens: int
) -> Bytes:
    """Symbols as often as their tables say."""
    channels = table_ids.shape[1]
    rows = np.zeros((tokens, channels), np.uint8) if contexts is None else contexts
    slots = rng.integers(0, 2048, (tokens, channels))
    ends = tables.frequencies.cumsum(axis=1)[table_ids[rows, np.arange(channels)]]
    return np.asarray((slots[..., None] >= ends).sum(axis=-1), np.uint8)


@dataclass(frozen=True)
class Sample:
    """Symbols and what codes them."""

    symbols: Bytes
    tables: FrequencyTables
    table_ids: Bytes
    contexts: Bytes | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.symbols.shape[0], self.symbols.shape[1]

    def encode(self, kernels: Kernels) -> Bytes:
        return kernels.rans_encode(self.symbols, self.tables, self.table_ids, self.contexts)

    def decode(self, kernels: Kernels, block: Bytes) -> Bytes:
        return kernels.rans_decode(block, *self.shape, self.tables, self.table_ids, self.contexts)


def sample(
    tokens: int,
    channels: int,
    alphabet: int,
    contexts: int = 1,
    tables: int = 5,
    kind: str = "likely",
    seed: int = 0,
) -> Sample:
    """A block's content; `kind` is "likely", "uniform" or "degenerate"."""
    rng = np.random.default_rng([seed, tokens, channels, alphabet, contexts])
    made = degenerate_tables(tables, alphabet) if kind == "degenerate" else random_tables(rng, tables, alphabet)
    ids = rng.integers(0, tables, (contexts, channels), dtype=np.uint8)
    context = rng.integers(0, contexts, (tokens, channels), dtype=np.uint8) if contexts > 1 else None
    if kind == "uniform":
        symbols = rng.integers(0, alphabet, (tokens, channels)).astype(np.uint8)
    else:
        symbols = likely_symbols(rng, made, ids, context, tokens)
    return Sample(symbols, made, ids, context)


def values_for(sample: Sample, step: float, seed: int = 0) -> NDArray[np.float32]:
    """Floats of which some, in steps, are beyond what the alphabet holds."""
    rng = np.random.default_rng(seed)
    spread = step * max(1, sample.tables.alphabet) / 4
    return (rng.standard_normal(sample.shape) * spread).astype(np.float32)
