"""Client vocabulary to messages and back."""

from collections.abc import Iterable

import numpy as np

from kvquilt.types import (
    BlendReport,
    ChunkReport,
    ModelInfo,
    NodeStatus,
    PlanReport,
    PrefetchProgress,
    Segment,
    Status,
)
from kvquilt_codec.errors import BadRequestError
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
    if isinstance(segment, str):
        return pb.Content(text=segment)
    if isinstance(segment, (bytes, bytearray)):
        raise BadRequestError("expected text or token ids; got bytes: decode them first")
    if len(segment) == 0:
        return pb.Content(tokens=pb.TokenIds())
    return pb.Content(tokens=pb.TokenIds(ids=check_token_ids(np.asarray(segment), MAX_TOKENS).tolist()))


def options(policy: str | None, recompute_ratio: float | None, level: str | None, seed: int) -> pb.BlendOptions:
    """Encode blend options; `None` leaves the router's default."""
    return pb.BlendOptions(policy=policy, recompute_ratio=recompute_ratio, level=level_number(level), seed=seed)


def level_number(level: str | None) -> common_pb2.Level.ValueType:
    """Encode a level given by name.

    Raises:
        BadRequestError: there is none of that name.
    """
    if level is None:
        return common_pb2.LEVEL_UNSPECIFIED
    try:
        return convert.level_to_wire(Level(level))
    except ValueError:
        raise BadRequestError(f"expected a level in {[known.value for known in Level]}; got {level!r}") from None


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
        )
        for m in messages
    )


def report(message: pb.BlendReport) -> BlendReport:
    """Decode a blend's report."""
    steps = ("fetch", "select", "compute", "total")
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
    )


def plan(message: pb.PlanBlendResponse) -> PlanReport:
    """Decode a plan."""
    return PlanReport(message.policy, message.recompute_ratio, message.prompt_tokens, chunks(message.chunks))


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
    )


def model(message: pb.Model) -> ModelInfo:
    """Decode a model."""
    return ModelInfo(
        message.name,
        message.model_fingerprint,
        message.architecture,
        convert.layout_from_wire(message.layout),
        message.max_context_tokens,
    )


def status(message: pb.GetStatusResponse) -> Status:
    """Decode a status."""
    return Status(
        message.version,
        tuple(model(m) for m in message.models),
        tuple(message.policies),
        message.default_policy,
        message.default_recompute_ratio,
        convert.level_from_wire(message.default_level).value,
        dict(sorted(message.counters.items())),
        NodeStatus(
            message.node_target,
            message.node_reachable,
            message.node_store,
            message.node_objects,
            message.node_used_bytes,
            message.node_capacity_bytes,
            message.node_kernels,
        ),
    )
