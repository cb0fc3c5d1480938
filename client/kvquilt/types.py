"""The vocabulary of the client: documents, segments, results. Read this file first."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvquilt_codec.types import KVLayout, LayerKV, TokenIds, VariantKind


@dataclass(frozen=True, slots=True)
class Public:
    """A shared prefix, document or warm-up passage that everybody may know: kept in the namespace `public`.

    Attributes:
        content: text, or token ids.
    """

    content: str | Sequence[int]

    def __len__(self) -> int:
        return len(self.content)


Segment = str | Sequence[int] | Public
"""A piece of a prompt: text, or token ids; public ones are marked."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text (or token ids) with an id of its own, under which it can be forgotten."""

    document_id: str
    content: Segment


@dataclass(frozen=True, slots=True)
class PrefetchProgress:
    """What became of one document, and how far the whole call is.

    Attributes:
        document_id: which document.
        tokens: its length.
        stored: chunks that were computed and stored now (the shared prefix counts as one).
        present: chunks that were stored before.
        failed: chunks that could not be stored; `failure_reason` says why.
        stored_bytes: bytes written.
        compute_seconds: seconds that computing took.
        done: documents finished so far.
        total: documents of the call.
        level: what it can be read at now; one stored object serves the coarser levels too.
    """

    document_id: str
    tokens: int
    stored: int
    present: int
    failed: int
    failure_reason: str
    stored_bytes: int
    compute_seconds: float
    done: int
    total: int
    level: str


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """What became of one chunk: `variant` is `None` and `miss_reason` set if it missed."""

    segment: int
    begin: int
    end: int
    variant: VariantKind | None
    miss_reason: str
    fetched_bytes: int
    in_exact_context: bool
    context: str = ""
    """What the stored KV's context is to the prompt: "exact", "pair", "warm", "base"; empty if it missed."""
    tier: str = ""
    """Where it was read: "memory", "hot", "queue" or "store" of a node, "router", which had kept it, or "unknown".
    Empty: it missed, or was not fetched."""


@dataclass(frozen=True, slots=True)
class BlendReport:
    """What a blend did; the four token counts add up to the prompt's length.

    Attributes:
        policy: recompute policy.
        recompute_ratio: share of reused tokens that it could recompute.
        tokens_exact: stored KV computed in this very context.
        tokens_reused: stored KV computed in another context, used as it is.
        tokens_recomputed: stored KV replaced by a fresh computation.
        tokens_computed: no stored KV; the question is among them.
        fetched_bytes: bytes that came from cache nodes.
        bf16_bytes: what the fetched tensors take as bfloat16.
        chunks: per chunk.
        seconds: the router's wall time by step; in `overlap` it fetched and computed at the same time.
        level: of the documents; "lossless" where no measured level meets a bound that was asked for.
        predicted_kl: what KL(full || blended) of the answer's tokens stays below, by measurement; `None`: not known.
        gate_refusal: why chunks whose context changed were not used; empty if they were, or there were none.
        observed_deviation: mean relative change of the values of recomputed tokens.
        reused_positions: of the reused tokens, ascending; only of a policy that goes on while the worker decodes.
        reused_deviations: how far the values of each of them are from fresh ones (L1, at one layer).
        tokens_queued: of the prompt, in chunks that were queued to be stored after it.
        saved_seconds: estimated time that the cache saved; negative: it cost time; `None`: not known yet.
        prefill_seconds_per_token: what that estimate takes a token of prefill for.
        request_id: names the request to `why`; empty: the router keeps no record of it.
    """

    policy: str
    recompute_ratio: float
    tokens_exact: int
    tokens_reused: int
    tokens_recomputed: int
    tokens_computed: int
    fetched_bytes: int
    bf16_bytes: int
    chunks: tuple[ChunkReport, ...]
    seconds: dict[str, float]
    level: str
    predicted_kl: float | None
    gate_refusal: str
    observed_deviation: float
    reused_positions: tuple[int, ...] = ()
    reused_deviations: tuple[float, ...] = ()
    tokens_queued: int = 0
    saved_seconds: float | None = None
    prefill_seconds_per_token: float | None = None
    request_id: str = ""

    @property
    def hit(self) -> bool:
        """Whether no chunk missed."""
        return not any(chunk.miss_reason for chunk in self.chunks)

    def tokens_by_tier(self) -> dict[str, int]:
        """Tokens of the chunks that were served, by where these were read; tiers without any are left out."""
        found: dict[str, int] = {}
        for chunk in self.chunks:
            if chunk.tier:
                found[chunk.tier] = found.get(chunk.tier, 0) + chunk.end - chunk.begin
        return found


@dataclass(frozen=True, slots=True, eq=False)
class BlendedKV:
    """Finished KV of a prompt's first `kv_tokens` tokens (all but the last).

    Attributes:
        model_fingerprint: hex digest of the model that it is for.
        layout: shapes and element type.
        token_ids: the whole prompt.
        layers: one by one; keys rotated to their positions.
        report: what was done.
    """

    model_fingerprint: str
    layout: KVLayout
    token_ids: TokenIds
    layers: tuple[LayerKV, ...]
    report: BlendReport

    @property
    def kv_tokens(self) -> int:
        """Tokens that the layers hold."""
        return len(self.token_ids) - 1


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a blend would do."""

    policy: str
    recompute_ratio: float
    prompt_tokens: int
    chunks: tuple[ChunkReport, ...]
    level: str
    predicted_kl: float | None
    gate_refusal: str
