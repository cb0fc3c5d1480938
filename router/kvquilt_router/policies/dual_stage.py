"""Dual-stage high deviation: KVShare (arXiv 2503.16525v2, DHD).

Prefill: `score_j = alpha_j * ||dV_j||_1`, alpha_j the attention that token j gets (its column of the attention matrix,
summed over heads and rows) and dV_j the difference of its fresh and stored values; the tokens with the highest scores
are computed again. Both are looked at in layer 1, as CacheBlend does: the paper does not say which layers it takes.
Only values are compared, as in the paper, which finds that keys choose nearly the same tokens.

Decode: the deviations of the tokens that stay reused go with the blend's report, so that the worker goes on; see
`DecodeRefresher`.
"""

import numpy as np

from kvquilt_router.policies.ranking import highest
from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem

_CHECK_LAYER = 1


class DualStage:
    """Policy `dual-stage`."""

    name = "dual-stage"
    looks = True

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`. Looks even when nothing may be chosen: the second stage needs the deviation."""
        candidates = problem.candidates
        if candidates.size == 0:
            return Selection(np.empty(0, np.int64))
        deviation, attention = probe.high_deviation(_CHECK_LAYER)
        chosen = highest((attention * deviation)[candidates], candidates, problem.budget)
        return Selection(chosen, deviation=deviation)
