"""Frequency tables of the quality layers: histograms of channels, and the few tables that stand for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.joint.integers import Integers, contexts_of
from kvquilt_codec.joint.layer import Quantised
from kvquilt_codec.profile.types import CONTEXTS, REFINEMENT_SYMBOLS, QualityTables
from kvquilt_kernels.entropy import TOTAL, FrequencyTables, frequencies_from_weights

MAX_TABLES = 32
ALPHABETS = (16, 64)
ESCAPE_BITS = 32
"""An escaped value is stored as an int32."""
_REACH = max(ALPHABETS) // 2
"""Histograms count values up to this magnitude; what is beyond counts as it."""
_ROUNDS = 12

Counts = NDArray[np.float64]


class Histograms:
    """Counts of symbols, per quality layer and model layer.

    Attributes:
        coarse: per model layer `[channels, 2 * _REACH + 1]`.
        refinements: per further quality layer, per model layer `[CONTEXTS, channels, 3]`.
    """

    def __init__(self, quality_layers: int) -> None:
        self.coarse: list[Counts] = []
        self.refinements: list[list[Counts]] = [[] for _ in range(quality_layers - 1)]

    def add(self, quantised: Quantised, stride: int = 1) -> None:
        """Count the next model layer's integers, of every `stride`-th token."""
        nested = [integers[::stride] for integers in quantised.nested]
        for depth, refinement in enumerate(self.refinements, 1):
            symbols = nested[depth] - 3 * nested[depth - 1] + 1
            contexts = contexts_of(nested[depth - 1]).astype(np.int64)
            refinement.append(_count(symbols, REFINEMENT_SYMBOLS, contexts, CONTEXTS))
        self.coarse.append(_count(np.clip(nested[0], -_REACH, _REACH) + _REACH, 2 * _REACH + 1)[0])


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """Tables, and what they cost.

    Attributes:
        quality: the coarsest first.
        bits: per quality layer, of all symbols and escapes that it was measured on.
    """

    quality: tuple[QualityTables, ...]
    bits: tuple[float, ...]


def fit_tables(training: Histograms, measured: Histograms) -> Coding:
    """Learn tables from one set of counts, and measure them (and choose the alphabet) on another."""
    candidates = []
    for alphabet in ALPHABETS:
        weights = [_with_escape(counts, alphabet)[None] for counts in training.coarse]
        found = [_with_escape(counts, alphabet)[None] for counts in measured.coarse]
        tables = cluster(weights)
        escapes = sum(float(counts[..., -1].sum()) for counts in found)
        candidates.append((cost(tables, found) + ESCAPE_BITS * escapes, tables))
    quality = [min(candidates, key=lambda candidate: candidate[0])]
    for learned, found in zip(training.refinements, measured.refinements, strict=True):
        tables = cluster(learned)
        quality.append((cost(tables, found), tables))
    return Coding(tuple(tables for _, tables in quality), tuple(bits for bits, _ in quality))


def cost(quality: QualityTables, counts: Sequence[Counts]) -> float:
    """Bits that entropy coding takes: counts `[contexts, channels, alphabet]` per model layer."""
    bits = _bits(quality.tables.frequencies)
    return sum(float((found * bits[ids]).sum()) for found, ids in zip(counts, quality.table_ids, strict=True))


def cluster(counts: Sequence[Counts]) -> QualityTables:
    """At most `MAX_TABLES` tables for counts `[contexts, channels, alphabet]` per model layer.

    K-means with the coding cost as its distance, from rows in the order of their entropy: nothing is drawn at random.
    A row without counts takes the table of what its context usually holds.
    """
    prior = sum(layer.sum(axis=1, keepdims=True) for layer in counts) + 1.0
    prior = prior / prior.sum(axis=-1, keepdims=True)
    alphabet = counts[0].shape[-1]
    rows = np.concatenate([(layer + prior).reshape(-1, alphabet) for layer in counts])
    shares = rows / rows.sum(axis=1, keepdims=True)
    order = np.argsort(-(shares * np.log2(shares)).sum(axis=1), kind="stable")
    ids = np.empty(len(rows), np.int64)
    ids[order] = np.arange(len(rows)) * min(MAX_TABLES, len(rows)) // len(rows)
    for _ in range(_ROUNDS):
        # Numbered anew: an emptied cluster is dropped.
        used, ids = np.unique(ids, return_inverse=True)
        sums = np.zeros((len(used), alphabet))
        np.add.at(sums, ids, rows)
        frequencies = frequencies_from_weights(sums)
        nearest = (rows @ _bits(frequencies).T).argmin(axis=1)
        if (nearest == ids).all():
            break
        ids = nearest
    cuts = np.cumsum([layer.shape[0] * layer.shape[1] for layer in counts])[:-1]
    table_ids = tuple(
        part.astype(np.uint8).reshape(layer.shape[:2]) for part, layer in zip(np.split(ids, cuts), counts, strict=True)
    )
    return QualityTables(FrequencyTables(frequencies), table_ids)


def _bits(frequencies: NDArray[np.uint16]) -> Counts:
    bits: Counts = np.log2(TOTAL) - np.log2(frequencies.astype(np.float64))
    return bits


def _count(symbols: Integers, alphabet: int, rows: NDArray[np.int64] | None = None, row_count: int = 1) -> Counts:
    """Counts `[rows, channels, alphabet]` of symbols `[tokens, channels]`."""
    channels = symbols.shape[1]
    keys = np.arange(channels, dtype=np.int64) if rows is None else rows * np.int64(channels) + np.arange(channels)
    counts = np.bincount((keys * alphabet + symbols).ravel(), minlength=row_count * channels * alphabet)
    return counts.reshape(row_count, channels, alphabet).astype(np.float64)


def _with_escape(counts: Counts, alphabet: int) -> Counts:
    """Counts `[channels, alphabet]`, all values that the alphabet has no symbol for in the last."""
    reach = alphabet // 2 - 1
    inside = counts[:, _REACH - reach : _REACH + reach + 1]
    return np.concatenate([inside, counts.sum(axis=1, keepdims=True) - inside.sum(axis=1, keepdims=True)], axis=1)
