"""From real numbers to the integers of the quality layers (docs: `kvquilt_codec.profile.types`)."""

import numpy as np

from kvquilt_codec.joint.integers import LARGEST, Integers, thirds
from kvquilt_codec.profile.types import CONTEXTS, Matrix


def quantise(y: Matrix, step: float) -> Integers:
    """`round(y / step)`, half to even, as the entropy coder rounds."""
    q: Integers = np.clip(np.rint(y * np.float32(1 / step)), -LARGEST, LARGEST).astype(np.int32)
    return q


def coarsen(q: Integers, times: int = 1) -> Integers:
    """`round(q / 3^times)`: rounding in stages is exact, since a third is never half-way between integers."""
    for _ in range(times):
        q = thirds(q)
    return q


def dequantise(q: Integers, step: float, times: int) -> Matrix:
    """The value of `coarsen(q, times)`."""
    return coarsen(q, times).astype(np.float32) * np.float32(step * 3**times)


def contexts(coarse: Integers) -> Integers:
    """Row of the frequency tables for the remainder of a coarser value: 0 to `CONTEXTS - 1`."""
    limit = CONTEXTS // 2
    return np.clip(coarse, -limit, limit) + limit
