"""Focused chunks (Cache-Craft, SIGMOD 2025, arXiv 2502.15734, section 3.4): compute on only what the question looks at.

The question's attention to every reused chunk is added up layer by layer. The paper observes that in most queries some
chunks stand out after 10 to 15 of 32 layers, and then stops computing the others; it gives no rule for "stand out".
Here: from two fifths of the layers on, chunks are sorted by their sum, and the widest gap between neighbours (as a
ratio) divides them, if the upper one has at least twice the lower one's. Until there is such a gap everything is
computed, and after it was found once, it stays.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvquilt_router.selection import LayerView, ReusedChunk

_SHARE_OF_LAYERS = 0.4
_CLEAR_RATIO = 2.0


class FocusFilter:
    """Drops the tokens of unfocused chunks, once.

    Args:
        chunks: that are compared; tokens outside of them stay.
        layers: number of the model's layers.
    """

    def __init__(self, chunks: Sequence[ReusedChunk], layers: int) -> None:
        self._chunks = chunks
        self._first = math.ceil(_SHARE_OF_LAYERS * layers) - 1
        self._attention = np.zeros(len(chunks), np.float64)
        self._decided = False

    def keep(self, view: LayerView) -> NDArray[np.bool_] | None:
        """See `LayerFilter.keep`."""
        if self._decided:
            return None
        attention = view.question_attention()
        self._attention += [float(attention[chunk.begin : chunk.end].sum()) for chunk in self._chunks]
        if view.layer < self._first:
            return None
        unfocused = unfocused_of(self._attention)
        if unfocused.size == 0:
            return None
        self._decided = True
        keep = np.ones(len(view.positions), bool)
        for index in unfocused:
            chunk = self._chunks[index]
            keep &= (view.positions < chunk.begin) | (view.positions >= chunk.end)
        return keep


def unfocused_of(attention: NDArray[np.float64]) -> NDArray[np.int64]:
    """Chunks below the widest gap in their `attention`, if it is clear; otherwise none."""
    if len(attention) < 2:
        return np.empty(0, np.int64)
    order = np.argsort(-attention, kind="stable")
    falling = np.maximum(attention[order], 1e-30)
    ratios = falling[:-1] / falling[1:]
    widest = int(ratios.argmax())
    return order[widest + 1 :] if ratios[widest] >= _CLEAR_RATIO else np.empty(0, np.int64)
