"""Requests that a router served lately, as it tells of them."""

from dataclasses import dataclass

from kvquilt_proto.v1 import router_pb2 as pb

_STEPS = ("fetch", "select", "compute", "total", "overlap")


@dataclass(frozen=True, slots=True)
class Patch:
    """A run of tokens of one kind.

    Attributes:
        kind: "exact", "pair", "warm", "base", "recomputed" or "computed".
        begin: position of the first one.
        tokens: how many.
        chunk: number of the request's chunk that they belong to; `None`: of none.
    """

    kind: str
    begin: int
    tokens: int
    chunk: int | None


@dataclass(frozen=True, slots=True)
class ServedChunk:
    """What became of one chunk of a request, as in `ChunkExplanation`; `node` had it in `tier`, stored in `form`."""

    segment: int
    begin: int
    end: int
    outcome: str
    context: str
    tokens_recomputed: int
    miss_reason: str
    fetched_bytes: int
    node: str
    stored_bytes: int
    form: str
    tier: str


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """A request as it was served; what is not described here is as in `BlendReport`.

    Attributes:
        request_id: names it to `why`.
        namespace: that it acted in.
        model: name of the model.
        unix_seconds: when it was finished.
        prompt_tokens: length of the prompt.
        extent: what was sent: "prompt", "exact" or "nothing".
        max_kl: most divergence that was asked for, in nats.
        audited_kl: what an audit found; `None`: there was none, or not yet.
        patches: all tokens of the prompt in its order, each in one of them.
        patches_merged: they were too many: tokens of one chunk or prompt that are of one kind are together.
        chunks: only of a request that was asked for by its id.
        tokens_by_tier: tokens with stored KV by where it was read, as `tier` of `ChunkReport`.
    """

    request_id: str
    namespace: str
    model: str
    unix_seconds: float
    prompt_tokens: int
    extent: str
    policy: str
    recompute_ratio: float
    level: str
    max_kl: float
    predicted_kl: float | None
    audited_kl: float | None
    gate_refusal: str
    tokens_exact: int
    tokens_reused: int
    tokens_recomputed: int
    tokens_computed: int
    fetched_bytes: int
    seconds: dict[str, float]
    saved_seconds: float | None
    observed_deviation: float
    patches: tuple[Patch, ...]
    patches_merged: bool
    chunks: tuple[ServedChunk, ...]
    tokens_by_tier: dict[str, int]

    def tokens(self) -> dict[str, int]:
        """Tokens by kind of patch; kinds without any are left out."""
        found: dict[str, int] = {}
        for patch in self.patches:
            found[patch.kind] = found.get(patch.kind, 0) + patch.tokens
        return found


def served_request(message: pb.ServedRequest) -> ServedRequest:
    """Decode a request."""
    return ServedRequest(
        message.request_id,
        message.namespace,
        message.model,
        message.unix_seconds,
        message.prompt_tokens,
        message.extent,
        message.policy,
        message.recompute_ratio,
        message.level,
        message.max_kl,
        message.predicted_kl if message.HasField("predicted_kl") else None,
        message.audited_kl if message.HasField("audited_kl") else None,
        message.gate_refusal,
        message.tokens_exact,
        message.tokens_reused,
        message.tokens_recomputed,
        message.tokens_computed,
        message.fetched_bytes,
        {step: getattr(message, f"{step}_seconds") for step in _STEPS},
        message.saved_seconds if message.HasField("saved_seconds") else None,
        message.observed_deviation,
        tuple(Patch(p.kind, p.begin, p.tokens, p.chunk if p.HasField("chunk") else None) for p in message.patches),
        message.patches_merged,
        tuple(map(_chunk, message.chunks)),
        dict(message.tokens_by_tier),
    )


def _chunk(message: pb.ServedChunk) -> ServedChunk:
    return ServedChunk(
        message.segment,
        message.begin,
        message.end,
        message.outcome,
        message.context,
        message.tokens_recomputed,
        message.miss_reason,
        message.fetched_bytes,
        message.node,
        message.stored_bytes,
        message.form,
        message.tier,
    )
