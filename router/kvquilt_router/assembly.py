"""One prompt's KV put together from chunks: merge, select, compute. Runs in the engine's thread; knows no cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.types import KVChunk
from kvquilt_router.engine import Engine
from kvquilt_router.engine.scatter import OnLayer
from kvquilt_router.selection import EstimatingPolicy, RecomputePolicy, ReusedChunk, Selection, SelectionProblem
from kvquilt_router.types import Indices, Prompt


@dataclass(frozen=True, slots=True, eq=False)
class PlacedChunk:
    """A chunk whose KV is at hand.

    Attributes:
        kv: of its tokens.
        place: where it goes, and what is known of its computation.
        exact: whether it was computed in the very context that it has in the prompt.
        repair: how many of its first tokens must be computed again, whatever a policy chooses: an edit precedes them.
    """

    kv: KVChunk
    place: ReusedChunk
    exact: bool
    repair: int = 0


class Assembly:
    """The KV of all tokens of a prompt but the last.

    Args:
        engine: computes.
        prompt: what is assembled.
        placed: chunks that were found, ascending, not overlapping; what they leave of the context is computed.
        order: key and first position of every chunk of the prompt, missed ones too; by default those that were found.

    Attributes:
        kv: being put together.
        missing: positions of the context without stored KV.
        recomputed: after `compute`: positions whose stored KV was replaced.
        observed_deviation: after `compute`: mean relative change of their values, over tokens and layers.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        placed: Sequence[PlacedChunk],
        order: tuple[tuple[bytes, int], ...] | None = None,
    ) -> None:
        self._engine = engine
        self._token_ids = prompt.token_ids
        self._context = prompt.context_tokens
        self._placed = placed
        found = tuple((chunk.place.chunk_key, chunk.place.begin) for chunk in placed)
        self._order = found if order is None else order
        self.kv = engine.empty(len(self._token_ids) - 1)
        known = np.zeros(self._context, bool)
        for chunk in placed:
            known[chunk.place.begin : chunk.place.end] = True
        self.missing: Indices = np.flatnonzero(~known)
        self._learning: tuple[EstimatingPolicy, SelectionProblem] | None = None
        begins = [(chunk.place.begin, chunk.repair) for chunk in placed if chunk.repair]
        self._repaired = np.concatenate(
            [np.arange(begin, begin + count) for begin, count in begins] or [np.empty(0, np.int64)]
        )
        self.recomputed: Indices = np.empty(0, np.int64)
        self.observed_deviation = 0.0

    def merge(self) -> None:
        """Place the chunks and rotate their keys to their positions."""
        for chunk in self._placed:
            self.kv.place(chunk.kv, chunk.place.begin)
        self._engine.rotate_placed(self.kv)

    def problem(self, recompute_ratio: float, seed: int = 0) -> SelectionProblem:
        """What a policy chooses from; `recompute_ratio` is a share of the tokens whose context changed."""
        reused = tuple(chunk.place for chunk in self._placed if not chunk.exact)
        budget = int(np.ceil(recompute_ratio * sum(chunk.tokens for chunk in reused)))
        return SelectionProblem(reused, self._context, budget, seed, self._order, len(self.kv.layers))

    def select(self, policy: RecomputePolicy, problem: SelectionProblem) -> Selection:
        """Let a policy choose, after `merge`; one that estimates changes the reused KV first."""
        if isinstance(policy, EstimatingPolicy):
            policy.estimate(problem, self._engine.view(self.kv))
            self._learning = policy, problem
        return policy.select(problem, self)

    def compute(self, selection: Selection, on_layer: OnLayer) -> None:
        """Compute what was chosen, what is missing, and the question, in one forward pass."""
        self.recomputed = np.setdiff1d(np.union1d(selection.positions, self._repaired), self.missing)
        question = np.arange(self._context, len(self._token_ids) - 1)
        positions = np.unique(np.concatenate([self.recomputed, self.missing, question]))
        stored = self._values(self.recomputed)
        self._engine.recompute(
            self._token_ids,
            self.kv,
            positions,
            on_layer,
            layer_filter=selection.filter,
            context=self._context,
            missing=np.union1d(self.missing, self._repaired),
        )
        self.observed_deviation = _relative_change(stored, self._values(self.recomputed))
        if self._learning is not None:
            policy, problem = self._learning
            policy.observe(problem, self._engine.view(self.kv))

    def _values(self, positions: Indices) -> list[torch.Tensor]:
        chosen = torch.from_numpy(positions).to(self.kv.layers[0].values.device)
        return [layer.values.index_select(2, chosen) for layer in self.kv.layers]

    def value_deviation(self, layer: int) -> NDArray[np.float32]:
        """See `BlendProbe.value_deviation`."""
        return self._engine.value_deviation(self._token_ids, self.kv, self._context, layer)

    def high_deviation(self, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `BlendProbe.high_deviation`."""
        return self._engine.high_deviation(self._token_ids, self.kv, self._context, layer)

    def question_attention(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """See `BlendProbe.question_attention`."""
        return self._engine.question_attention(self._token_ids, self.kv, self._context, weights)


def _relative_change(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Mean over layers of `mean ||after - before|| / mean ||after||`, norms over each head's values."""
    if before[0].shape[2] == 0:
        return 0.0
    changes = [
        float((b.float() - a.float()).norm(dim=-1).mean() / b.float().norm(dim=-1).mean().clamp_min(1e-9))
        for a, b in zip(before, after, strict=True)
    ]
    return sum(changes) / len(changes)
