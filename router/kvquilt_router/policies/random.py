"""Random tokens: the honest baseline of every policy that chooses."""

import numpy as np

from kvquilt_router.types import Indices, LayerProbe, SelectionProblem


class RandomTokens:
    """Policy `random`: the budget drawn without replacement; the same seed draws the same tokens."""

    name = "random"

    def select(self, problem: SelectionProblem, probe: LayerProbe) -> Indices:
        """See `RecomputePolicy.select`."""
        del probe
        drawn = np.random.default_rng(problem.seed).choice(problem.candidates, problem.budget, replace=False)
        return np.sort(drawn)
