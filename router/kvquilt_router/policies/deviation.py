"""Highest value deviation: CacheBlend (EuroSys 2025, arXiv 2405.16444, section 4.3), with gradual filtering.

The KV of layers 0 and 1 is computed for the whole context. Tokens whose values at layer 1 differ most (squared L2)
from the stored ones are computed again, and each further layer drops those of them that differ least there: the paper
takes r_1 slightly above the ratio r, r_i < r_{i-1}, and r on average. It gives no schedule; here the share falls
linearly from about 1.2 r at layer 1 to 0.8 r at the last, so that its mean over all layers is r. Where 1.2 r is more
than all tokens, the slope is smaller.

Two more differences. The paper compares keys and values, this compares values, as the authors' released code does. And
the layers up to the check layer are computed in full for the choice, so their KV is fresh for all tokens. The released
code chooses once, for all layers: `Deviation(gradual=False)`, which the benchmark compares.
"""

import numpy as np
from numpy.typing import NDArray

from kvquilt_router.policies.ranking import highest
from kvquilt_router.selection import BlendProbe, LayerView, Selection, SelectionProblem
from kvquilt_router.types import Indices

_CHECK_LAYER = 1
_SLOPE = 0.2


class Deviation:
    """Policy `deviation`.

    Args:
        gradual: choose again at every layer, as the paper does; otherwise once, as the released code does.
    """

    name = "deviation"
    looks = True

    def __init__(self, *, gradual: bool = True) -> None:
        self._gradual = gradual

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`. In a gradual choice it is the mean over layers that keeps to the budget."""
        candidates = problem.candidates
        if problem.budget == 0:
            return Selection(np.empty(0, np.int64))
        layers = problem.layers if self._gradual else 0
        counts = schedule(problem.budget, len(candidates), layers)
        deviation = probe.value_deviation(_CHECK_LAYER)
        chosen = highest(deviation[candidates], candidates, int(counts[0]))
        return Selection(chosen, GradualFilter(candidates, counts, deviation) if counts[0] > counts[-1] else None)


def schedule(budget: int, candidates: int, layers: int) -> NDArray[np.int64]:
    """How many tokens each layer computes, `[max(layers, 1)]`: not ascending, on average at most `budget`.

    Layer 0, where nothing can be told yet, computes what layer 1 does.
    """
    if layers <= _CHECK_LAYER + 1:
        return np.full(max(layers, 1), min(budget, candidates))
    steps = np.maximum(np.arange(layers) - _CHECK_LAYER, 0)
    falling = 1 - 2 * steps / (layers - 1 - _CHECK_LAYER)
    falling -= falling.mean()
    slope = min(_SLOPE, (candidates / budget - 1) / falling[0]) if budget else 0.0
    return np.floor(budget * (1 + slope * falling) + 1e-9).astype(np.int64)


class GradualFilter:
    """Keeps, at every layer from 1 on, the tokens that differ most there.

    Args:
        candidates: positions that may be dropped, ascending; all others stay.
        counts: how many of them each layer computes.
        deviation: at layer 1, of each context token. There the stored values are gone: the look replaced them.
    """

    def __init__(self, candidates: Indices, counts: NDArray[np.int64], deviation: NDArray[np.float32]) -> None:
        self._candidates = candidates
        self._counts = counts
        self._deviation = deviation

    def keep(self, view: LayerView) -> NDArray[np.bool_] | None:
        """See `LayerFilter.keep`."""
        if not _CHECK_LAYER <= view.layer < len(self._counts) - 1:
            return None
        ours = np.isin(view.positions, self._candidates)
        count = int(self._counts[view.layer + 1])
        if int(ours.sum()) <= count:
            return None
        positions = view.positions[ours]
        checked = view.layer == _CHECK_LAYER
        kept = highest(self._deviation[positions] if checked else view.value_deviation()[ours], positions, count)
        keep: NDArray[np.bool_] = ~ours | np.isin(view.positions, kept)
        return keep
