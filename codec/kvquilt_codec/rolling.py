"""Hashes of all short runs of a token sequence, and minima over windows: what finding and cutting chunks stand on.

The hashes are public and fixed for ever: they choose places, nothing is trusted or kept secret by them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.types import TokenIds

Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): golden ratio and the multipliers of its finaliser."""


def run_hashes(token_ids: TokenIds, length: int) -> Hashes:
    """64-bit hash of every run of `length` tokens, `[tokens - length + 1]`; equal runs have equal hashes.

    Args:
        token_ids: at least `length` of them.
        length: tokens of a run.
    """
    mixed = _mixed(token_ids.astype(np.uint64) + np.uint64(1))
    runs = len(mixed) - length + 1
    sums = np.zeros(runs, np.uint64)
    for place in range(length):
        sums = sums * np.uint64(_BASE) + mixed[place : place + runs]
    return _mixed(sums)


def sliding_minimum(values: NDArray[Any], window: int) -> NDArray[Any]:
    """Minimum of every window, `[len(values) - window + 1]`, in log2(window) passes."""
    minima, covered = values, 1
    while 2 * covered <= window:
        minima = np.minimum(minima[:-covered], minima[covered:])
        covered *= 2
    rest = window - covered
    return np.minimum(minima[: len(minima) - rest], minima[rest:]) if rest else minima


def _mixed(words: Hashes) -> Hashes:
    """The finaliser of splitmix64: every bit of a word depends on every bit before."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX[0])
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX[1])
    mixed: Hashes = words ^ (words >> np.uint64(31))
    return mixed
