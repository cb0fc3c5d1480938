"""Question attention: tokens that the question looks at most (ProphetKV, arXiv 2602.02579, section 4).

The question alone is run over the stored KV, and every context token's score is the attention that it gets, summed
over layers, heads and the question's tokens. The paper averages over layers; the order is the same.
"""

import numpy as np

from kvquilt_router.policies.ranking import highest
from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem


class Question:
    """Policy `question`."""

    name = "question"
    looks = True

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        if problem.budget == 0:
            return Selection(np.empty(0, np.int64))
        candidates = problem.candidates
        return Selection(highest(probe.question_attention()[candidates], candidates, problem.budget))
