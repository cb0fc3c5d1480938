"""First tokens of every chunk: LegoLink (EPIC, ICML 2025, arXiv 2410.15332, section 4.2).

A chunk computed apart gives its first tokens the attention that the prompt's first token should have; computing them
again in place removes that false sink. The paper takes a fixed number of tokens a chunk; here the budget is shared
equally between the chunks, so that policies can be compared at one ratio.
"""

import numpy as np

from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem


class FirstTokens:
    """Policy `first-tokens`."""

    name = "first-tokens"
    looks = False

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`. The longest equal share that keeps within the budget."""
        del probe
        taken = np.zeros(len(problem.spans), np.int64)
        lengths = np.array([end - begin for begin, end in problem.spans], np.int64)
        left = problem.budget
        # Short chunks leave a part of their share to the others, hence the rounds.
        while left > 0 and (open_ := np.flatnonzero(taken < lengths)).size:
            share = max(1, left // open_.size)
            for index in open_[:left]:
                step = int(min(share, lengths[index] - taken[index]))
                taken[index] += step
                left -= step
        pieces = [np.arange(begin, begin + n) for (begin, _), n in zip(problem.spans, taken, strict=True)]
        return Selection(np.concatenate(pieces or [np.empty(0, np.int64)]))
