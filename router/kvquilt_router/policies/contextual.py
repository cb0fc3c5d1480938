"""By how much a chunk's KV hangs on its former context: Cache-Craft (SIGMOD 2025, arXiv 2502.15734, sections 3.2-3.4).

Per chunk the cache context overhead CFO says which share of its tokens to compute again (see `overhead.py` for
equations 3 to 12); the tokens with the highest attention to their former context are taken (equation 14). The paper
tunes the factor alpha of equation 12 on a validation set, for a wanted quality. Here alpha is the one number with
which the shares of all chunks add up to the budget, none above 1, so that policies can be compared at one ratio. Less
than the budget is chosen if all chunks that need anything are computed whole.

Tokens of a chunk that came without attention of its own are taken from its beginning on (the false sink, see
`first_tokens.py`).

Focused chunks: from a middle layer on, chunks that the question looks at clearly less than at others are not computed
further; see `focus.py`.
"""

import numpy as np
from numpy.typing import NDArray

from kvquilt_router.policies.focus import FocusFilter
from kvquilt_router.policies.overhead import cfo
from kvquilt_router.policies.ranking import highest
from kvquilt_router.selection import BlendProbe, ReusedChunk, Selection, SelectionProblem
from kvquilt_router.types import Indices


class Contextual:
    """Policy `contextual`.

    Args:
        focus: stop computing chunks that the question hardly looks at.
    """

    name = "contextual"
    looks = False

    def __init__(self, *, focus: bool = True) -> None:
        self._focus = focus

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        del probe
        overheads = np.array([cfo(chunk, problem.order) for chunk in problem.chunks], np.float64)
        lengths = np.array([chunk.tokens for chunk in problem.chunks], np.int64)
        counts = shares(overheads, lengths, problem.budget)
        pieces = [_tokens(chunk, int(count)) for chunk, count in zip(problem.chunks, counts, strict=True)]
        positions = np.concatenate([*pieces, np.empty(0, np.int64)])
        focused = self._focus and problem.layers > 0 and len(problem.chunks) > 1 and positions.size > 0
        return Selection(positions, FocusFilter(problem.chunks, problem.layers) if focused else None)


def shares(overheads: NDArray[np.float64], lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Tokens per chunk: `min(1, alpha * overhead) * length` for the alpha with which they add up to `budget`.

    Rounded so that the sum stays: down, and what is left to those that lost most, of equal ones to the earlier.
    """
    exact = np.zeros(len(lengths))
    open_ = overheads > 0
    left = float(budget)
    # Alpha rises as chunks fill up, so those that are full at one alpha stay full: at most one round per chunk.
    while open_.any():
        alpha = left / float((overheads * lengths)[open_].sum())
        full = open_ & (alpha * overheads >= 1)
        if not full.any():
            exact[open_] = alpha * (overheads * lengths)[open_]
            break
        exact[full] = lengths[full]
        left -= float(lengths[full].sum())
        open_ &= ~full
    exact = np.minimum(exact, lengths)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    rest = min(budget, round(float(exact.sum()))) - int(counts.sum())
    order = np.argsort(-(exact - counts), kind="stable")
    for index in [i for i in order if counts[i] < lengths[i]][:rest]:
        counts[index] += 1
    return counts


def _tokens(chunk: ReusedChunk, count: int) -> Indices:
    positions = np.arange(chunk.begin, chunk.end)
    return positions[:count] if chunk.inter is None else highest(chunk.inter, positions, count)
