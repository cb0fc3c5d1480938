"""Why chunks were missed, as the router explains it."""

from dataclasses import dataclass

from kvquilt.states import NodeStatus
from kvquilt.wire import node_status
from kvquilt_proto.v1 import router_pb2 as pb


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a chunk's text and that of the nearest stored chunk part, both compared from their beginnings.

    Attributes:
        position: of the first token that differs, in the prompt.
        stored_offset: and in the stored chunk.
        expected_token: what is stored there; `None`: the stored text ends there.
        got_token: what the prompt has; `None`: the chunk ends there.
        text_before: text that is the same before that place; empty where the model has no tokenizer, as the next two.
        expected_text: how the stored text goes on.
        got_text: how the prompt's goes on.
        same_begin: where the longest run begins that both have, in the prompt.
        same_stored_offset: and in the stored chunk.
        same_tokens: its length.
        stored_tokens: length of the stored chunk.
    """

    position: int
    stored_offset: int
    expected_token: int | None
    got_token: int | None
    text_before: str
    expected_text: str
    got_text: str
    same_begin: int
    same_stored_offset: int
    same_tokens: int
    stored_tokens: int


@dataclass(frozen=True, slots=True)
class ChunkExplanation:
    """What became of one chunk, and why.

    Attributes:
        segment: 0 for the shared prefix, 1 for the first document.
        begin: position of its first token in the prompt.
        end: position after its last.
        outcome: "exact", "blended", "recomputed" or "computed".
        context: of the stored KV that was used, or that the gate kept out; empty if there was none.
        tokens_recomputed: of a chunk that was served.
        miss_reason: as in `ChunkReport`.
        cause: what explains the miss; empty if it was served. docs/reference.md lists them.
        stored_since: something that would serve it has been stored since.
        departed_unix_seconds: when it left the store, if it did.
        divergence: from the nearest stored chunk, if there is one.
        namespace: where it is stored, of the cause "other_namespace".
        other_model_fingerprint: whose it is, of the cause "other_model".
        model_differences: parts of the fingerprint that differ; empty: not known.
        stored_form: what is stored, of the cause "other_form".
        wanted_form: and what was looked for.
        predicted_kl: least that the gate would predict, of the cause "gate_closed"; `None`: not measured.
        detail: why it was not kept, or why the cause could not be found out.
        tier: where it was read, as in `ChunkReport`.
    """

    segment: int
    begin: int
    end: int
    outcome: str
    context: str
    tokens_recomputed: int
    miss_reason: str
    cause: str
    stored_since: bool
    departed_unix_seconds: float | None
    divergence: Divergence | None
    namespace: str
    other_model_fingerprint: str
    model_differences: tuple[str, ...]
    stored_form: str
    wanted_form: str
    predicted_kl: float | None
    detail: str
    tier: str


@dataclass(frozen=True, slots=True)
class MissReport:
    """A request, and why its chunks were missed.

    Attributes:
        request_id: empty if it was a prompt that was looked up now.
        request_unix_seconds: when it was served; `None` likewise.
        model_fingerprint: of the router's model.
        prompt_tokens: length of the prompt.
        policy: and `recompute_ratio`, `level`, `max_kl`, `predicted_kl`, `gate_refusal`: as in `BlendReport`.
        chunks: per chunk.
        nodes: how they are now, where a chunk was missed because of one.
    """

    request_id: str
    request_unix_seconds: float | None
    model_fingerprint: str
    prompt_tokens: int
    policy: str
    recompute_ratio: float
    level: str
    max_kl: float
    predicted_kl: float | None
    gate_refusal: str
    chunks: tuple[ChunkExplanation, ...]
    nodes: tuple[NodeStatus, ...]


def miss_report(message: pb.ExplainMissResponse) -> MissReport:
    """Decode a router's explanation."""
    return MissReport(
        message.request_id,
        message.request_unix_seconds if message.HasField("request_unix_seconds") else None,
        message.model_fingerprint,
        message.prompt_tokens,
        message.policy,
        message.recompute_ratio,
        message.level,
        message.max_kl,
        message.predicted_kl if message.HasField("predicted_kl") else None,
        message.gate_refusal,
        tuple(map(_chunk, message.chunks)),
        tuple(map(node_status, message.nodes)),
    )


def _chunk(message: pb.ChunkExplanation) -> ChunkExplanation:
    return ChunkExplanation(
        message.segment,
        message.begin,
        message.end,
        message.outcome,
        message.context,
        message.tokens_recomputed,
        message.miss_reason,
        message.cause,
        message.stored_since,
        message.departed_unix_seconds if message.HasField("departed_unix_seconds") else None,
        _divergence(message.divergence) if message.HasField("divergence") else None,
        message.namespace,
        message.other_model_fingerprint,
        tuple(message.model_differences),
        message.stored_form,
        message.wanted_form,
        message.predicted_kl if message.HasField("predicted_kl") else None,
        message.detail,
        message.tier,
    )


def _divergence(message: pb.Divergence) -> Divergence:
    return Divergence(
        message.position,
        message.stored_offset,
        message.expected_token if message.HasField("expected_token") else None,
        message.got_token if message.HasField("got_token") else None,
        message.text_before,
        message.expected_text,
        message.got_text,
        message.same_begin,
        message.same_stored_offset,
        message.same_tokens,
        message.stored_tokens,
    )
