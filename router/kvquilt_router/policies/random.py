"""Random tokens: the honest baseline of every policy that chooses."""

import numpy as np

from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem


class RandomTokens:
    """Policy `random`: the budget drawn without replacement; the same seed draws the same tokens."""

    name = "random"
    looks = False

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        del probe
        drawn = np.random.default_rng(problem.seed).choice(problem.candidates, problem.budget, replace=False)
        return Selection(np.sort(drawn))
