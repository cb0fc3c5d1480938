"""The vocabulary of choosing which tokens of reused chunks are computed again. Read it after `types.py`."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.catalog import ContextSource
from kvquilt_codec.types import VariantKind
from kvquilt_router.types import Indices


@dataclass(frozen=True, slots=True, eq=False)
class ReusedChunk:
    """A chunk of a prompt whose KV is at hand, but was computed in another context: its tokens are candidates.

    Attributes:
        begin: position of its first token in the prompt.
        end: position after its last.
        chunk_key: key of its text.
        kind: what preceded it when it was computed.
        dependence: how far each token's values depend on what precedes the chunk, `[layers, kv_heads, tokens]`
            (`||V_variant - V_base|| / mean ||V||`), or `None` if that was not kept.
        inter: attention that each token gave to its context beyond the shared prefix, `[tokens]`, mean over layers and
            heads, or `None`.
        sources: what preceded it, in order.
        intra: attention that its tokens gave to each other, in the unit of `ContextSource.inter`.
    """

    begin: int
    end: int
    chunk_key: bytes = b""
    kind: VariantKind = VariantKind.BASE
    dependence: NDArray[np.float32] | None = None
    inter: NDArray[np.float32] | None = None
    sources: tuple[ContextSource, ...] = ()
    intra: float = 0.0

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, eq=False)
class SelectionProblem:
    """What a policy chooses from.

    Attributes:
        chunks: every reused chunk whose context changed, ascending.
        context_tokens: number of tokens before the question.
        budget: how many candidates to choose, at most.
        seed: for policies that draw at random.
        order: key and first position of every chunk of the prompt, found or not, ascending.
        layers: number of the model's layers; 0 if that is not known, and then nothing is thinned out by layer.
    """

    chunks: tuple[ReusedChunk, ...]
    context_tokens: int
    budget: int
    seed: int = 0
    order: tuple[tuple[bytes, int], ...] = ()
    layers: int = 0

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Begin and end of every chunk."""
        return tuple((chunk.begin, chunk.end) for chunk in self.chunks)

    @property
    def candidates(self) -> Indices:
        """Positions of all tokens of the chunks."""
        return np.concatenate([np.arange(begin, end) for begin, end in self.spans] or [np.empty(0, np.int64)])


class BlendProbe(Protocol):
    """A look into the model, at a prompt whose chunks are in place. What a look costs is said with it."""

    def value_deviation(self, layer: int) -> NDArray[np.float32]:
        """Squared L2 distance between fresh and stored values of each context token, `[context_tokens]`.

        Computes the layers up to `layer` for the whole context and keeps the fresh KV of those layers in the blend.
        Costs a little more than `layer / layers` of a full prefill.
        """

    def high_deviation(self, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """L1 distance between fresh and stored values of each context token, and the attention that it receives.

        Both `[context_tokens]`, at `layer`; attention summed over heads and over the context's and question's tokens.
        Costs `value_deviation` and the attention of `layer`, and keeps the same: ask for one of the two, once.
        """

    def question_attention(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Attention that the question's tokens pay to each context token, `[context_tokens]`.

        Summed over layers, heads and the question's tokens, each term times `weights` `[layers, kv_heads,
        context_tokens]` if given. Costs one forward pass of the question over the stored KV.
        """


class LayerView(Protocol):
    """One layer of a recompute, seen after its keys and values were computed."""

    layer: int
    positions: Indices
    """Reused context tokens that are computed at this layer, ascending: those that may be dropped."""

    def value_deviation(self) -> NDArray[np.float32]:
        """Squared L2 distance between fresh and stored values of each of `positions`."""

    def question_attention(self) -> NDArray[np.float32]:
        """Attention that the question pays to each context token at this layer, summed over heads and tokens.

        All context tokens, `[context_tokens]`; the question without its last token, which the worker computes.
        """


class LayerFilter(Protocol):
    """Decides layer by layer which tokens are still computed. Made for one blend; may keep state between layers."""

    def keep(self, view: LayerView) -> NDArray[np.bool_] | None:
        """Which of `view.positions` the next layers compute too; `None`: all of them. The view ends with the call."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a policy chose.

    Attributes:
        positions: to recompute, ascending, without repeats.
        filter: drops some of them in later layers, whose stored KV then stays as it is.
        deviation: of each context token's values from the stored ones, `[context_tokens]`, for a worker that goes on
            recomputing while it decodes; `None` if the policy has no such stage.
    """

    positions: Indices
    filter: LayerFilter | None = None
    deviation: NDArray[np.float32] | None = None


class RecomputePolicy(Protocol):
    """Chooses the tokens whose KV is computed again, together with the question. One small class each, by name.

    Attributes:
        name: unique.
        looks: whether it looks at stored KV; one that does not can choose before the KV has come, and gets no probe.
    """

    name: str
    looks: bool

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """The tokens to recompute."""


class KVView(Protocol):
    """A prompt's KV where it is, free of position: keys are given and taken un-rotated. Not valid after the blend."""

    @property
    def layers(self) -> int:
        """Number of layers."""

    def read(self, layer: int, begin: int, end: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copies of the keys and values of the tokens at `begin` to `end`, each `[kv_heads, tokens, dim]`."""

    def write(self, layer: int, begin: int, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Put keys and values of that form in place of those at `begin` onwards."""


@runtime_checkable
class EstimatingPolicy(RecomputePolicy, Protocol):
    """A policy that also changes reused KV, and learns from what was computed. An object serves one blend."""

    def estimate(self, problem: SelectionProblem, kv: KVView) -> None:
        """Change reused KV in place, nearer to what a full prefill would compute. Comes before `select`."""

    def observe(self, problem: SelectionProblem, kv: KVView) -> None:
        """Learn from the finished KV. Comes after the compute; not at all if the blend fails before."""
