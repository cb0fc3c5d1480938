"""Client vocabulary to messages and back."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from kvquilt.states import GatePointStatus, GateStatus, ModelInfo, NodeStatus, ProfileStatus, Queue, Status, Tier
from kvquilt.types import BlendReport, ChunkReport, PlanReport, PrefetchProgress, Public, Segment
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.levels import parse_level
from kvquilt_codec.profile import LevelCard
from kvquilt_codec.types import Level, check_token_ids
from kvquilt_proto.v1 import common_pb2
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc import convert

MAX_TOKENS = 1 << 20


def content(segment: Segment) -> pb.Content:
    """Encode a segment.

    Raises:
        BadRequestError: neither text nor token ids.
    """
    if isinstance(segment, Public):
        message = content(segment.content)
        message.public = True
        return message
    if isinstance(segment, str):
        return pb.Content(text=segment)
    if isinstance(segment, (bytes, bytearray)):
        raise BadRequestError("expected text or token ids; got bytes: decode them first")
    if len(segment) == 0:
        return pb.Content(tokens=pb.TokenIds())
    return pb.Content(tokens=pb.TokenIds(ids=check_token_ids(np.asarray(segment), MAX_TOKENS).tolist()))


def options(
    policy: str | None,
    recompute_ratio: float | None,
    level: str | None,
    max_kl: float | None,
    seed: int = 0,
    transient: bool = False,
) -> pb.BlendOptions:
    """Encode blend options; `None` leaves the router's default."""
    number, kl_below = level_fields(level)
    return pb.BlendOptions(
        policy=policy,
        recompute_ratio=recompute_ratio,
        level=number,
        seed=seed,
        kl_below=kl_below,
        max_kl=max_kl,
        transient=transient,
    )


def level_fields(level: str | None) -> tuple[common_pb2.Level.ValueType, float | None]:
    """Encode a level given by name, or by a bound like "kl<1e-3": its number, and the bound.

    Raises:
        BadRequestError: neither.
    """
    if level is None:
        return common_pb2.LEVEL_UNSPECIFIED, None
    asked = parse_level(level)
    if isinstance(asked, Level):
        return convert.level_to_wire(asked), None
    return common_pb2.LEVEL_UNSPECIFIED, asked.kl


def chunks(messages: Iterable[pb.ChunkReport]) -> tuple[ChunkReport, ...]:
    """Decode chunk reports."""
    return tuple(
        ChunkReport(
            m.segment,
            m.begin,
            m.end,
            None if m.miss_reason else convert.variant_from_wire(m.variant_kind),
            m.miss_reason,
            m.fetched_bytes,
            m.in_exact_context,
            m.context,
            m.tier,
        )
        for m in messages
    )


def report(message: pb.BlendReport) -> BlendReport:
    """Decode a blend's report.

    Raises:
        IntegrityError: reused tokens that are not in the prompt, or without a deviation each.
    """
    _check_reused(message)
    steps = ("fetch", "select", "compute", "total", "overlap")
    return BlendReport(
        message.policy,
        message.recompute_ratio,
        message.tokens_exact,
        message.tokens_reused,
        message.tokens_recomputed,
        message.tokens_computed,
        message.fetched_bytes,
        message.bf16_bytes,
        chunks(message.chunks),
        {step: getattr(message, f"{step}_seconds") for step in steps},
        message.level,
        message.predicted_kl if message.HasField("predicted_kl") else None,
        message.gate_refusal,
        message.observed_deviation,
        tuple(message.reused_positions),
        tuple(message.reused_deviations),
        message.tokens_queued,
        message.saved_seconds if message.HasField("saved_seconds") else None,
        message.prefill_seconds_per_token if message.HasField("prefill_seconds_per_token") else None,
        message.request_id,
    )


def _check_reused(message: pb.BlendReport) -> None:
    positions = np.asarray(message.reused_positions, np.int64)
    deviations = np.asarray(message.reused_deviations, np.float32)
    if len(positions) != len(deviations) or len(positions) not in (0, message.tokens_reused):
        raise IntegrityError(
            f"expected the deviation of {message.tokens_reused} reused tokens, or none; "
            f"the router sent {len(positions)} positions and {len(deviations)} deviations"
        )
    tokens = message.tokens_exact + message.tokens_reused + message.tokens_recomputed + message.tokens_computed
    ascending = len(positions) == 0 or (bool((np.diff(positions) > 0).all()) and positions[-1] < tokens)
    if not ascending or not (np.isfinite(deviations) & (deviations >= 0)).all():
        raise IntegrityError("expected ascending positions within the prompt and deviations of at least 0; got others")


def plan(message: pb.PlanBlendResponse) -> PlanReport:
    """Decode a plan."""
    return PlanReport(
        message.policy,
        message.recompute_ratio,
        message.prompt_tokens,
        chunks(message.chunks),
        message.level,
        message.predicted_kl if message.HasField("predicted_kl") else None,
        message.gate_refusal,
    )


def progress(message: pb.PrefetchResponse, done: int, total: int) -> PrefetchProgress:
    """Decode one document's progress within a call of `total` documents."""
    return PrefetchProgress(
        message.document_id,
        message.token_count,
        message.chunks_stored,
        message.chunks_present,
        message.chunks_failed,
        message.failure_reason,
        message.stored_bytes,
        message.compute_seconds,
        done,
        total,
        message.level,
    )


def profile(message: pb.Profile) -> ProfileStatus:
    """Decode the profile in force."""
    levels = tuple(
        LevelCard(card.level, card.quality_layers, card.bits_per_element, card.kl, card.top1_agreement)
        for card in message.levels
    )
    return ProfileStatus(message.profile_digest, message.miss_reason, levels, message.texts)


def gate(message: pb.Gate) -> GateStatus:
    """Decode the gate in force."""
    return GateStatus(message.missing_reason, tuple(map(gate_point, message.points)), message.texts, message.source)


def gate_point(message: pb.GatePoint) -> GatePointStatus:
    """Decode an operating point."""
    return GatePointStatus(*(getattr(message, field.name) for field in dataclasses.fields(GatePointStatus)))


def model(message: pb.Model) -> ModelInfo:
    """Decode a model."""
    return ModelInfo(
        message.name,
        message.model_fingerprint,
        message.architecture,
        convert.layout_from_wire(message.layout),
        message.max_context_tokens,
        profile(message.profile) if message.HasField("profile") else None,
        gate(message.gate),
    )


def status(message: pb.GetStatusResponse) -> Status:
    """Decode a status."""
    return Status(
        message.version,
        tuple(model(m) for m in message.models),
        tuple(message.policies),
        message.default_policy,
        message.default_recompute_ratio if message.HasField("default_recompute_ratio") else None,
        message.default_level,
        message.default_max_kl,
        message.ungated,
        dict(sorted(message.counters.items())),
        tuple(node_status(node) for node in message.nodes),
        {own.namespace: dict(sorted(own.counters.items())) for own in message.usage},
        tuple(Queue(queue.name, queue.length, queue.limit) for queue in message.queues),
        message.unix_seconds,
    )


def node_status(message: pb.NodeStatus) -> NodeStatus:
    """Decode a node's state."""
    return NodeStatus(
        message.target,
        message.reachable,
        message.serving,
        message.breaker,
        message.outstanding,
        message.calls,
        message.failures,
        message.store,
        message.objects,
        message.used_bytes,
        message.capacity_bytes,
        message.kernels,
        message.pinned_bytes,
        message.pending_deletions,
        message.round_trip_seconds if message.HasField("round_trip_seconds") else None,
        tuple(Tier(tier.name, tier.used_bytes, tier.capacity_bytes) for tier in message.tiers),
    )
