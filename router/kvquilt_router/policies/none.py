"""Plain reuse: nothing is computed again. The baseline that every policy must beat in quality."""

import numpy as np

from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem


class NoRecompute:
    """Policy `none`."""

    name = "none"
    looks = False

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        del problem, probe
        return Selection(np.empty(0, np.int64))
