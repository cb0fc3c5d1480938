"""Explanations to messages."""

from collections.abc import Iterable, Sequence

from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.why.types import ChunkRecord, DivergenceFound, Explanation, RequestRecord


def response(
    record: RequestRecord,
    model_fingerprint: str,
    explanations: Sequence[Explanation],
    nodes: Iterable[pb.NodeStatus],
) -> pb.ExplainMissResponse:
    """Describe a request, and why its chunks were missed."""
    return pb.ExplainMissResponse(
        request_id=record.request_id,
        request_unix_seconds=record.at,
        model_fingerprint=model_fingerprint,
        prompt_tokens=len(record.token_ids),
        policy=record.decision.policy,
        recompute_ratio=record.decision.recompute_ratio,
        level=record.options.point.level.value,
        max_kl=record.options.max_kl,
        predicted_kl=record.decision.predicted_kl,
        gate_refusal=record.decision.refusal,
        chunks=map(_chunk, record.chunks, explanations),
        nodes=nodes,
    )


def _chunk(chunk: ChunkRecord, why: Explanation) -> pb.ChunkExplanation:
    return pb.ChunkExplanation(
        segment=chunk.ref.segment,
        begin=chunk.ref.begin,
        end=chunk.ref.end,
        outcome=chunk.outcome,
        context=chunk.context,
        tokens_recomputed=chunk.recomputed,
        miss_reason=chunk.miss_reason,
        cause=why.cause,
        stored_since=why.stored_since,
        departed_unix_seconds=why.departed,
        divergence=None if why.divergence is None else _divergence(why.divergence),
        namespace=why.namespace,
        other_model_fingerprint=why.other_model,
        model_differences=why.differences,
        stored_form=why.stored_form,
        wanted_form=chunk.ref.point.form.name if why.stored_form else "",
        predicted_kl=why.predicted_kl,
        detail=why.detail,
        tier="" if chunk.tier is None else chunk.tier.value,
    )


def _divergence(found: DivergenceFound) -> pb.Divergence:
    divergence = found.divergence
    return pb.Divergence(
        position=found.begin + divergence.offset,
        stored_offset=found.stored_begin + divergence.offset,
        expected_token=divergence.expected,
        got_token=divergence.got,
        text_before=found.before,
        expected_text=found.expected,
        got_text=found.got,
        same_begin=found.begin + divergence.same_begin,
        same_stored_offset=found.stored_begin + divergence.same_stored,
        same_tokens=divergence.same_tokens,
        stored_tokens=found.stored_tokens,
    )
