"""The vocabulary of the router: prompts, plans, policies, reports. Read this file first."""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import TokenIds
from kvquilt_router.gate.types import Decision
from kvquilt_rpc.nodes.types import NO_NODES

SLOWER = "slower_than_computing"
"""Of a chunk or a whole prompt: by the estimates its stored KV comes later than computing it takes."""

NODE_REASONS = (
    NO_NODES,
    "node_unavailable",
    "lookup_deadline",
    "fetch_deadline",
    "node_busy",
    "node_refused",
    "node_error",
)
"""Why a chunk's stored KV was not used, where that says something of a node."""

MISS_REASONS = (
    "not_stored",
    *NODE_REASONS,
    "damaged",
    "fingerprint_mismatch",
    "profile_missing",
    "profile_damaged",
    "gate_closed",
    SLOWER,
)
"""Why it was not used; docs/reference.md says what each means."""

Indices = NDArray[np.int64]
"""Positions of tokens in a prompt, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt as token ids.

    Attributes:
        prefix: what it shares with others; may be empty.
        documents: its chunks; of a plain prompt one, which is everything but the last token.
        question: never empty.
        plain: it came as plain token ids: where known text begins and ends is to be found out.
        public: segments that are kept in the public namespace: 0 for the prefix, i for the i-th document, from 1.
        known_prefix: everybody may know the prefix: it is public, or the head of the model's chat template.
    """

    prefix: TokenIds
    documents: tuple[TokenIds, ...]
    question: TokenIds
    plain: bool = False
    public: frozenset[int] = frozenset()
    known_prefix: bool = False

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
        public: whether its key is of the public namespace.
    """

    segment: int
    begin: int
    token_ids: TokenIds
    chunk_key: bytes
    point: OperatingPoint
    public: bool = False

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.begin + len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A stored object that holds KV of a chunk.

    Attributes:
        info: the object.
        context: what its context is to the prompt; one of `kvquilt_codec.gate.CONTEXTS`.
        point: how it is read.
    """

    info: ObjectInfo
    context: str
    point: OperatingPoint


Key = tuple[bytes, OperatingPoint]
"""An object, and how it is read."""


def key_of(found: Found) -> Key:
    """What is fetched for it."""
    return found.info.key, found.point


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
        kept_out: context of the stored KV that the gate did not let be used.
        tier: that its KV was read from; `None` if it was missed, or not fetched.
    """

    ref: ChunkRef
    found: Found | None = None
    miss_reason: str = ""
    fetched_bytes: int = 0
    source_begin: int = 0
    repair: int = 0
    kept_out: str = ""
    tier: Tier | None = None


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


class Extent(Enum):
    """How much of a prompt's KV a worker is given."""

    PROMPT = "prompt"
    """That of all tokens but the last, or for who computes it himself, without what follows the last stored token."""
    EXACT = "exact"
    """That of the longest head whose stored KV was computed in exactly this context."""
    AUTO = "auto"
    """Whichever gives the earliest first token. Only asked for."""
    NOTHING = "nothing"
    """Only given."""


NOTHING_REASONS = ("nothing_stored", "nothing_new", "too_short", SLOWER)
"""Why a worker is given nothing; docs/reference.md says what each means."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker asks for, and what it has.

    Attributes:
        extent: see there.
        computed: it has KV of so many first tokens.
        least: it takes no fewer tokens than this.
        seconds_per_token: what it takes to compute a token of a prompt; `None`: not known.
        leaves_tail: it computes what follows the last stored token, unless the blend needs that too.
        search: exact heads are looked for by their text too, however they were cut.
    """

    extent: Extent = Extent.PROMPT
    computed: int = 0
    least: int = 1
    seconds_per_token: float | None = None
    leaves_tail: bool = False
    search: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """Of which tokens KV is sent: those from `first` up to `end`."""

    first: int
    end: int


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
        tokens_stored: those with stored KV, recomputed ones included, by its context and the tier that it came from.
        bf16_bytes: what the fetched tensors take as bfloat16.
        seconds: wall time by step: fetch (look up, fetch, decode), select (merge, choose), compute, total, and overlap:
            how long chunks were fetched while the engine computed, which is counted in fetch and in the others.
        observed_deviation: mean relative change of the values of recomputed tokens, over tokens and layers.
        reused_positions: of the `tokens_reused` in the prompt, ascending; only if the policy measured their deviation.
        reused_deviations: L1 distance of their values from fresh ones, one per position.
        tokens_queued: of the prompt, each once, in chunks that were queued to be stored after it.
        prefill_seconds_per_token: of this model, as measured lately; `None`: no prefill of it was measured yet.
        saved_seconds: see `usage.saved_seconds`.
    """

    options: BlendOptions
    decision: Decision
    chunks: list[ChunkOutcome]
    tokens_exact: int = 0
    tokens_reused: int = 0
    tokens_recomputed: int = 0
    tokens_computed: int = 0
    tokens_stored: dict[tuple[str, Tier], int] = field(default_factory=dict)
    bf16_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    observed_deviation: float = 0.0
    reused_positions: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    reused_deviations: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    tokens_queued: int = 0
    prefill_seconds_per_token: float | None = None
    saved_seconds: float | None = None

    @property
    def fetched_bytes(self) -> int:
        """Bytes fetched from cache nodes."""
        return sum(chunk.fetched_bytes for chunk in self.chunks)
