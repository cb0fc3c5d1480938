"""Records of requests to messages that show them."""

from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.why.quilt import quilt
from kvquilt_router.why.types import ChunkRecord, RequestRecord

LISTED_PATCHES = 128
PATCHES = 2048
"""Most patches of a request in a list, and of one that is asked for."""
_STEPS = ("fetch", "select", "compute", "total", "overlap")


def request_message(record: RequestRecord, model: str, namespace: str, *, whole: bool = False) -> pb.ServedRequest:
    """Describe a request: in few patches, or as a whole, with its chunks."""
    served, shown = record.served, quilt(record, PATCHES if whole else LISTED_PATCHES)
    message = pb.ServedRequest(
        request_id=record.request_id,
        namespace=namespace,
        model=model,
        unix_seconds=record.at or 0.0,
        prompt_tokens=len(record.token_ids),
        extent=served.extent.value,
        policy=record.decision.policy,
        recompute_ratio=record.decision.recompute_ratio,
        level=record.options.point.level.value,
        max_kl=record.options.max_kl,
        predicted_kl=record.decision.predicted_kl,
        audited_kl=record.audited_kl,
        gate_refusal=record.decision.refusal,
        tokens_by_tier={tier.value: count for tier, count in served.tiers.items()},
        fetched_bytes=served.fetched_bytes,
        saved_seconds=served.saved_seconds,
        observed_deviation=served.observed_deviation,
        patches=(pb.Patch(kind=p.kind, begin=p.begin, tokens=p.tokens, chunk=p.chunk) for p in shown.patches),
        patches_merged=shown.merged,
        chunks=map(_chunk, record.chunks) if whole else None,
    )
    for kind, count in served.tokens.items():
        setattr(message, f"tokens_{kind}", count)
    for step in _STEPS:
        setattr(message, f"{step}_seconds", served.seconds.get(step, 0.0))
    return message


def _chunk(chunk: ChunkRecord) -> pb.ServedChunk:
    message = pb.ServedChunk(
        segment=chunk.ref.segment,
        begin=chunk.ref.begin,
        end=chunk.ref.end,
        outcome=chunk.outcome,
        context=chunk.context,
        tokens_recomputed=chunk.recomputed,
        miss_reason=chunk.miss_reason,
        fetched_bytes=chunk.fetched_bytes,
        tier="" if chunk.tier is None else chunk.tier.value,
    )
    if chunk.source is not None:
        info = chunk.source[0]
        message.node, message.stored_bytes, message.form = info.node, info.stored_bytes, info.meta.form.name
    return message
