"""Question attention times how far a token's KV depends on what precedes its chunk: the default.

`s_t = sum over layers, heads, question tokens of attention(question -> t) * e[layer, head, t]`, where e is the distance
between the token's values computed after two contexts, relative to the mean norm of values, measured when the chunk was
computed and stored with it. What the question does not read needs no recompute, nor does what hardly changes with its
context. Where a chunk comes without e, the mean of the others stands for it.
"""

import numpy as np
from numpy.typing import NDArray

from kvquilt_router.policies.ranking import highest
from kvquilt_router.selection import BlendProbe, Selection, SelectionProblem


class QuestionDeviation:
    """Policy `question-deviation`."""

    name = "question-deviation"
    looks = True

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        if problem.budget == 0:
            return Selection(np.empty(0, np.int64))
        candidates = problem.candidates
        score = probe.question_attention(_weights(problem))
        return Selection(highest(score[candidates], candidates, problem.budget))


def _weights(problem: SelectionProblem) -> NDArray[np.float32] | None:
    """`[layers, kv_heads, context_tokens]`, 0 outside the chunks; `None` if no chunk has any."""
    known = [chunk.dependence for chunk in problem.chunks if chunk.dependence is not None]
    if not known:
        return None
    layers, kv_heads, _ = known[0].shape
    mean = np.concatenate(known, axis=2).mean(axis=2, keepdims=True)
    weights = np.zeros((layers, kv_heads, problem.context_tokens), np.float32)
    for chunk in problem.chunks:
        weights[:, :, chunk.begin : chunk.end] = mean if chunk.dependence is None else chunk.dependence
    return weights
