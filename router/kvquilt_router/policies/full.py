"""Everything again: must equal a full prefill, whatever was stored. For verification, not for speed."""

import numpy as np

from kvquilt_router.types import Indices, LayerProbe, SelectionProblem


class Full:
    """Policy `full`: every context token, exact ones included; the ratio does not matter."""

    name = "full"

    def select(self, problem: SelectionProblem, probe: LayerProbe) -> Indices:
        """See `RecomputePolicy.select`."""
        del probe
        return np.arange(problem.context_tokens)
