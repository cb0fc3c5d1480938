"""Highest value deviation: CacheBlend (EuroSys 2025, arXiv 2405.16444, section 4.3), in the form of its release.

The KV of layers 0 and 1 is computed for the whole context. Tokens whose values at layer 1 differ most (squared L2)
from the stored ones are computed again in all layers. The paper's gradual filtering over layers is not done, as in
the authors' released code.
"""

import numpy as np

from kvquilt_router.policies.ranking import highest
from kvquilt_router.types import BlendProbe, Selection, SelectionProblem

_CHECK_LAYER = 1


class Deviation:
    """Policy `deviation`."""

    name = "deviation"

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        candidates = problem.candidates
        if problem.budget == 0:
            return Selection(np.empty(0, np.int64))
        deviation = probe.value_deviation(_CHECK_LAYER)
        return Selection(highest(deviation[candidates], candidates, problem.budget))
