"""Where a text and a stored chunk part. Pure computation."""

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.matching import Diagonal, runs
from kvquilt_router.why.types import Divergence


def diverging(text: TokenIds, stored: TokenIds, shifts: tuple[int, ...] = ()) -> Divergence | None:
    """The first token in which a text differs from a stored one; `None` if they are equal.

    Both are compared from their beginnings. The longest stretch that both have is looked for there and along `shifts`.

    Args:
        text: `[tokens]`, of a prompt.
        stored: `[tokens]`, of a chunk.
        shifts: where in the text the stored chunk may begin; below 0 where only a later part of it is in.
    """
    common = min(len(text), len(stored))
    differs = np.flatnonzero(text[:common] != stored[:common])
    offset = int(differs[0]) if len(differs) else common
    if offset == len(text) == len(stored):
        return None
    along = [Diagonal(b"", len(stored), shift, 1) for shift in {0, *shifts}]
    same = max(runs(text, stored, along, min_run=1), key=lambda run: run.length, default=None)
    return Divergence(
        offset,
        int(stored[offset]) if offset < len(stored) else None,
        int(text[offset]) if offset < len(text) else None,
        *((0, 0, 0) if same is None else (same.begin, same.source_begin, same.length)),
    )
