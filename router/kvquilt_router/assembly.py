"""One prompt's KV put together from chunks: merge, select, compute. Runs in the engine's thread; knows no cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.types import LayerKV
from kvquilt_router.engine import Engine
from kvquilt_router.engine.scatter import OnLayer
from kvquilt_router.selection import EstimatingPolicy, RecomputePolicy, ReusedChunk, Selection, SelectionProblem
from kvquilt_router.types import Indices, Prompt


class ChunkKV(Protocol):
    """KV of a chunk, as `KVChunk` has it; its layers need not be there before they are asked for."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""

    @property
    def rotated_from(self) -> int | None:
        """Where the first key belongs; `None` if keys are un-rotated."""

    def layer(self, index: int) -> LayerKV:
        """Keys and values of one layer."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedChunk:
    """A chunk whose KV is at hand, or on its way.

    Attributes:
        kv: of its tokens.
        place: where it goes, and what is known of its computation.
        exact: whether it was computed in the very context that it has in the prompt.
        repair: how many of its first tokens must be computed again, whatever a policy chooses: an edit precedes them.
    """

    kv: ChunkKV
    place: ReusedChunk
    exact: bool
    repair: int = 0


class Assembly:
    """The KV of all tokens of a prompt but the last, or of fewer.

    Args:
        engine: computes.
        prompt: what is assembled.
        placed: chunks that were found, ascending, not overlapping; what they leave of the context is computed.
        order: key and first position of every chunk of the prompt, missed ones too; by default those that were found.
        awaited: called with a layer's number before the chunks' KV of that layer is read; returns when it is there.
        end: KV is made of the tokens up to this one; `None`: of all but the last.

    Attributes:
        kv: being put together.
        missing: positions of the context without stored KV.
        computed: after `compute`: all positions that it computed.
        recomputed: after `compute`: positions whose stored KV was replaced.
        observed_deviation: after `compute`: mean relative change of their values, over tokens and layers.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        placed: Sequence[PlacedChunk],
        order: tuple[tuple[bytes, int], ...] | None = None,
        awaited: Callable[[int], None] = lambda _: None,
        end: int | None = None,
    ) -> None:
        self._engine = engine
        self._token_ids = prompt.token_ids if end is None else prompt.token_ids[: end + 1]
        self._context = min(prompt.context_tokens, len(self._token_ids) - 1)
        self._placed = placed
        found = tuple((chunk.place.chunk_key, chunk.place.begin) for chunk in placed)
        self._order = found if order is None else order
        self._awaited = awaited
        self._merged = 0
        self.kv = engine.empty(len(self._token_ids) - 1)
        for chunk in placed:
            self.kv.reserve(chunk.place.begin, chunk.place.begin + chunk.kv.tokens, chunk.kv.rotated_from)
        self._rotations = engine.rotations(self.kv)
        known = np.zeros(self._context, bool)
        for chunk in placed:
            known[chunk.place.begin : chunk.place.end] = True
        self.missing: Indices = np.flatnonzero(~known)
        self._learning: tuple[EstimatingPolicy, SelectionProblem] | None = None
        begins = [(chunk.place.begin, chunk.repair) for chunk in placed if chunk.repair]
        self._repaired = np.concatenate(
            [np.arange(begin, begin + count) for begin, count in begins] or [np.empty(0, np.int64)]
        )
        self.computed: Indices = np.empty(0, np.int64)
        self.recomputed: Indices = np.empty(0, np.int64)
        self.observed_deviation = 0.0

    def merge(self) -> None:
        """Place the chunks and rotate their keys to their positions.

        What is not merged before is merged layer by layer, when a look or the compute comes to the layer.
        """
        self._merge_to(len(self.kv.layers) - 1)

    def _merge_to(self, layer: int) -> None:
        for index in range(self._merged, layer + 1):
            self._awaited(index)
            for chunk in self._placed:
                self.kv.write(index, chunk.place.begin, chunk.kv.layer(index))
            self._rotations.rotate(index)
            self._merged = index + 1

    def problem(self, recompute_ratio: float, seed: int = 0) -> SelectionProblem:
        """What a policy chooses from; `recompute_ratio` is a share of the tokens whose context changed."""
        reused = tuple(chunk.place for chunk in self._placed if not chunk.exact)
        budget = int(np.ceil(recompute_ratio * sum(chunk.tokens for chunk in reused)))
        return SelectionProblem(reused, self._context, budget, seed, self._order, len(self.kv.layers))

    def select(self, policy: RecomputePolicy, problem: SelectionProblem) -> Selection:
        """Let a policy choose; one that estimates changes the reused KV first."""
        if isinstance(policy, EstimatingPolicy):
            self.merge()
            policy.estimate(problem, self._engine.view(self.kv))
            self._learning = policy, problem
        return policy.select(problem, self)

    def positions(self, selection: Selection) -> Indices:
        """All that is computed: what was chosen, what is missing, what an edit precedes, and the question."""
        question = np.arange(self._context, len(self._token_ids) - 1)
        return np.unique(np.concatenate([selection.positions, self._repaired, self.missing, question]))

    def compute(self, selection: Selection, on_layer: OnLayer) -> None:
        """Compute what was chosen, what is missing, and the question, in one forward pass."""
        self.computed = self.positions(selection)
        self.recomputed = np.setdiff1d(self.computed[self.computed < self._context], self.missing)
        chosen = torch.from_numpy(self.recomputed).to(self._engine.device)
        stored: list[torch.Tensor] = []

        def before_layer(index: int) -> None:
            self._merge_to(index)
            stored.append(self.kv.layers[index].values.index_select(2, chosen))

        self._engine.recompute(
            self._token_ids,
            self.kv,
            self.computed,
            on_layer,
            layer_filter=selection.filter,
            context=self._context,
            missing=np.union1d(self.missing, self._repaired),
            before_layer=before_layer,
        )
        fresh = [layer.values.index_select(2, chosen) for layer in self.kv.layers]
        self.observed_deviation = _relative_change(stored, fresh)
        if self._learning is not None:
            policy, problem = self._learning
            policy.observe(problem, self._engine.view(self.kv))

    def value_deviation(self, layer: int) -> NDArray[np.float32]:
        """See `BlendProbe.value_deviation`."""
        self._merge_to(layer)
        return self._engine.value_deviation(self._token_ids, self.kv, self._context, layer)

    def high_deviation(self, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `BlendProbe.high_deviation`."""
        self._merge_to(layer)
        return self._engine.high_deviation(self._token_ids, self.kv, self._context, layer)

    def question_attention(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """See `BlendProbe.question_attention`."""
        return self._engine.question_attention(self._token_ids, self.kv, self._context, weights, self._merge_to)


def _relative_change(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Mean over layers of `mean ||after - before|| / mean ||after||`, norms over each head's values."""
    if before[0].shape[2] == 0:
        return 0.0
    changes = [
        float((b.float() - a.float()).norm(dim=-1).mean() / b.float().norm(dim=-1).mean().clamp_min(1e-9))
        for a, b in zip(before, after, strict=True)
    ]
    return sum(changes) / len(changes)
