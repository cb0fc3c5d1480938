"""The vocabulary of the router: prompts, plans, policies, reports. Read this file first."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.catalog import ContextSource, ObjectInfo
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.types import TokenIds, VariantKind
from kvquilt_router.gate.types import REFUSALS, Decision

MISS_REASONS = (
    "not_stored",
    "node_unavailable",
    "lookup_deadline",
    "fetch_deadline",
    "damaged",
    "fingerprint_mismatch",
    "profile_missing",
    "profile_damaged",
    "node_busy",
    "node_error",
    "gate_closed",
)
"""Why a chunk's stored KV was not used; docs/reference.md says what each means."""

COUNTERS = (
    "blends",
    "bytes_fetched",
    "chunks_hit",
    *(f"chunks_missed_{reason}" for reason in MISS_REASONS),
    "tokens_exact",
    "tokens_reused",
    "tokens_recomputed",
    "tokens_computed",
    "documents_prefetched",
    "puts_failed",
    "background_stored",
    "background_dropped",
    "background_failed",
    *(f"blends_refused_{reason}" for reason in REFUSALS),
    "audits",
    "audits_exceeded",
    "audits_dropped",
    "points_withdrawn",
)
"""Counters of a router."""

Indices = NDArray[np.int64]
"""Positions of tokens in a prompt, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt as token ids: shared prefix (may be empty), documents, question (never empty)."""

    prefix: TokenIds
    documents: tuple[TokenIds, ...]
    question: TokenIds

    @property
    def token_ids(self) -> TokenIds:
        """All tokens in order."""
        return np.concatenate([self.prefix, *self.documents, self.question])

    @property
    def context_tokens(self) -> int:
        """Tokens before the question."""
        return len(self.prefix) + sum(len(document) for document in self.documents)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRef:
    """A run of a prompt's context that the cache may hold as one chunk.

    Attributes:
        segment: 0 for the shared prefix, i for the i-th document, from 1.
        begin: position of its first token in the prompt.
        token_ids: its tokens.
        chunk_key: key of its text.
        point: the form that is looked for, and how much of it is read.
    """

    segment: int
    begin: int
    token_ids: TokenIds
    chunk_key: bytes
    point: OperatingPoint

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.begin + len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A stored object that holds KV of a chunk.

    Attributes:
        info: the object.
        context: what its context is to the prompt; one of `kvquilt_router.gate.CONTEXTS`.
        point: how it is read.
    """

    info: ObjectInfo
    context: str
    point: OperatingPoint


@dataclass(slots=True)
class ChunkOutcome:
    """What became of one run of a prompt's context.

    Attributes:
        ref: the run.
        found: whose KV is used for it; `None` if it was missed.
        miss_reason: why it was missed; empty if it was not.
        fetched_bytes: what came for it.
        source_begin: first token of the run within the stored chunk.
        repair: how many of its first tokens are computed again, because an edit precedes them.
    """

    ref: ChunkRef
    found: Found | None = None
    miss_reason: str = ""
    fetched_bytes: int = 0
    source_begin: int = 0
    repair: int = 0


@dataclass(frozen=True, slots=True)
class BlendOptions:
    """How to blend.

    Attributes:
        policy: by name; `None`: the cheapest that the gate lets pass.
        recompute_ratio: share of reused tokens to recompute; `None`: as for the policy.
        point: level of documents.
        max_kl: most predicted divergence, in nats.
        seed: of policies that draw at random.
    """

    policy: str | None
    recompute_ratio: float | None
    point: OperatingPoint
    max_kl: float
    seed: int = 0


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
    """Chooses the tokens whose KV is computed again, together with the question. One small class each, by name."""

    name: str

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """The tokens to recompute."""


@dataclass(slots=True)
class BlendReport:
    """What a blend did. Tokens: exact + reused + recomputed + computed = all tokens of the prompt.

    Attributes:
        options: what was asked for.
        decision: how it was blended, and what divergence the gate predicts.
        chunks: outcome per run of the context.
        tokens_exact: stored KV computed in this very context.
        tokens_reused: stored KV computed in another context, used as it is.
        tokens_recomputed: stored KV replaced by a fresh computation.
        tokens_computed: no stored KV; the question is among them, its last token computed by the worker.
        bf16_bytes: what the fetched tensors take as bfloat16.
        seconds: wall time by step: fetch (look up, fetch, decode), select (merge, choose), compute, total.
        observed_deviation: mean relative change of the values of recomputed tokens, over tokens and layers.
        reused_positions: of the `tokens_reused` in the prompt, ascending; only if the policy measured their deviation.
        reused_deviations: L1 distance of their values from fresh ones, one per position.
    """

    options: BlendOptions
    decision: Decision
    chunks: list[ChunkOutcome]
    tokens_exact: int = 0
    tokens_reused: int = 0
    tokens_recomputed: int = 0
    tokens_computed: int = 0
    bf16_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    observed_deviation: float = 0.0
    reused_positions: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    reused_deviations: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def fetched_bytes(self) -> int:
        """Bytes fetched from cache nodes."""
        return sum(chunk.fetched_bytes for chunk in self.chunks)
