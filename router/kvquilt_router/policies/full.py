"""Everything again: must equal a full prefill, whatever was stored. For verification, not for speed."""

import numpy as np

from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem


class Full:
    """Policy `full`: every context token, exact ones included; the ratio does not matter."""

    name = "full"
    looks = False

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        del probe
        return Selection(np.arange(problem.context_tokens))
