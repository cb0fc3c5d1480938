"""Batches of blocks to try decoders of batches on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from kvquilt_kernels.types import Bytes, FrequencyTables
from tests.kernels.blocks import BACKENDS, REFERENCE, degenerate_tables, likely_symbols, random_tables

needs_triton = pytest.mark.skipif("triton" not in BACKENDS, reason="needs a GPU or TRITON_INTERPRET=1")


@dataclass(frozen=True)
class Streams:
    """Blocks of one shape, and what codes them."""

    blocks: list[Bytes]
    tokens: int
    channels: int
    tables: FrequencyTables
    table_ids: Bytes
    contexts: Bytes | None

    def decoded(self, stream: int) -> Bytes:
        """What the reference reads."""
        contexts = None if self.contexts is None else self.contexts[stream]
        ids = self.table_ids[stream]
        return REFERENCE.rans_decode(self.blocks[stream], self.tokens, self.channels, self.tables, ids, contexts)

    def symbols(self, decoder: Any) -> torch.Tensor:
        contexts = None if self.contexts is None else torch.from_numpy(self.contexts)
        ids = torch.from_numpy(self.table_ids)
        return decoder.symbols(self.blocks, self.tokens, self.channels, self.tables, ids, contexts)


def decoder() -> Any:
    return BACKENDS["triton"].decoder  # type: ignore[attr-defined]


def streams(
    tokens: int, channels: int, alphabet: int, contexts: int = 1, tables: int = 5, kind: str = "likely", count: int = 3
) -> Streams:
    """Blocks that differ in symbols, contexts and table ids; `kind` is "likely", "uniform" or "degenerate"."""
    rng = np.random.default_rng([tokens, channels, alphabet, contexts])
    made = degenerate_tables(tables, alphabet) if kind == "degenerate" else random_tables(rng, tables, alphabet)
    ids = rng.integers(0, tables, (count, contexts, channels), dtype=np.uint8)
    rows = rng.integers(0, contexts, (count, tokens, channels), dtype=np.uint8)
    if kind == "uniform":
        symbols = rng.integers(0, alphabet, rows.shape).astype(np.uint8)
    else:
        symbols = np.stack([likely_symbols(rng, made, *one, tokens) for one in zip(ids, rows, strict=True)])
    blocks = [REFERENCE.rans_encode(*one) for one in zip(symbols, [made] * count, ids, rows, strict=True)]
    return Streams(blocks, tokens, channels, made, ids, rows if contexts > 1 else None)


def check_symbols(batch: Streams) -> None:
    decoded = batch.symbols(decoder())
    assert decoded.dtype == torch.uint8
    for stream in range(len(batch.blocks)):
        assert np.array_equal(decoded[stream].cpu().numpy(), batch.decoded(stream))
