"""The router's vocabulary to messages."""

from kvquilt_codec.gate import GatePoint
from kvquilt_codec.levels import level_cards
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.engine import LoadedModel
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.gate.withdrawal import Audits
from kvquilt_router.offers import Begun, Offer
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.taking import Taken
from kvquilt_router.types import BlendReport, ChunkOutcome, Extent, Prompt
from kvquilt_rpc import convert

_EXTENTS = {
    Extent.PROMPT: pb.EXTENT_PROMPT,
    Extent.EXACT: pb.EXTENT_EXACT,
    Extent.NOTHING: pb.EXTENT_NOTHING,
}


def profile_message(profile: ModelProfile) -> pb.Profile | None:
    """Describe the profile in force, if there is one."""
    if not profile.digest:
        return None
    message = pb.Profile(profile_digest=profile.digest, miss_reason=profile.miss_reason)
    if (known := profile.profile) is not None:
        message.texts = known.texts
        message.levels.extend(
            pb.LevelCard(
                level=card.level,
                quality_layers=card.quality_layers,
                bits_per_element=card.bits_per_element,
                kl=card.kl,
                top1_agreement=card.top1_agreement,
            )
            for card in level_cards(known).values()
        )
    return message


def gate_message(gate: HeldGate) -> pb.Gate:
    """Describe the gate in force."""
    message = pb.Gate(missing_reason=gate.closed_reason, source=gate.source)
    if gate.gate is None or gate.audits is None:
        return message
    message.texts = gate.gate.texts
    message.points.extend(point_message(point, gate.audits) for point in gate.gate.points)
    return message


def point_message(point: GatePoint, audits: Audits) -> pb.GatePoint:
    """Describe an operating point, and what audits found of it."""
    known = audits.of(point.key)
    return pb.GatePoint(
        policy=point.policy,
        recompute_ratio=point.recompute_ratio,
        context=point.context,
        level=point.level,
        cases=point.cases,
        kl_geomean=point.kl_geomean,
        kl_upper=point.kl_upper,
        top1_agreement=point.top1_agreement,
        cpu_share=point.cpu_share,
        audits=known.total.audits,
        audits_exceeded=known.total.exceeded,
        withdrawn=known.withdrawn,
        lifts=known.lifts,
    )


def model_message(model: LoadedModel, profile: ModelProfile, gate: HeldGate) -> pb.Model:
    """Describe a model, its profile and its gate."""
    return pb.Model(
        name=model.name,
        model_fingerprint=model.fingerprint,
        architecture=model.architecture,
        layout=convert.layout_to_wire(model.engine.traits.layout),
        max_context_tokens=model.engine.traits.max_context,
        profile=profile_message(profile),
        gate=gate_message(gate),
    )


def chunk_message(outcome: ChunkOutcome) -> pb.ChunkReport:
    """Describe what became of a chunk."""
    ref, found = outcome.ref, outcome.found
    message = pb.ChunkReport(
        segment=ref.segment,
        begin=ref.begin,
        end=ref.end,
        miss_reason=outcome.miss_reason,
        fetched_bytes=outcome.fetched_bytes,
        tier="" if outcome.tier is None else outcome.tier.value,
    )
    if found is not None:
        message.variant_kind = convert.variant_to_wire(found.info.meta.variant)
        message.context = found.context
        message.in_exact_context = found.context == "exact"
    return message


def plan_message(offer: Offer, report: BlendReport, prompt_tokens: int) -> pb.PlanBlendResponse:
    """Describe what a blend would do."""
    return pb.PlanBlendResponse(
        policy=report.decision.policy,
        recompute_ratio=report.decision.recompute_ratio,
        prompt_tokens=prompt_tokens,
        chunks=[chunk_message(outcome) for outcome in report.chunks],
        level=report.options.point.level.value,
        predicted_kl=report.decision.predicted_kl,
        gate_refusal=report.decision.refusal,
        extent=_EXTENTS[offer.extent],
        kv_tokens=offer.end,
        exact_tokens=offer.exact_tokens,
        stored_tokens=offer.stored_tokens,
        blended_tokens=offer.blended_tokens,
        load_seconds=offer.way.load_seconds,
        first_token_seconds=offer.way.first_token_seconds,
        compute_seconds=offer.computing.first_token_seconds,
        nothing_reason=offer.reason,
    )


def report_message(report: BlendReport) -> pb.BlendReport:
    """Describe a blend."""
    seconds = report.seconds
    return pb.BlendReport(
        policy=report.decision.policy,
        recompute_ratio=report.decision.recompute_ratio,
        tokens_exact=report.tokens_exact,
        tokens_reused=report.tokens_reused,
        tokens_recomputed=report.tokens_recomputed,
        tokens_computed=report.tokens_computed,
        fetched_bytes=report.fetched_bytes,
        bf16_bytes=report.bf16_bytes,
        chunks=[chunk_message(outcome) for outcome in report.chunks],
        fetch_seconds=seconds["fetch"],
        select_seconds=seconds["select"],
        compute_seconds=seconds["compute"],
        total_seconds=seconds["total"],
        overlap_seconds=seconds["overlap"],
        reused_positions=report.reused_positions.tolist(),
        reused_deviations=report.reused_deviations.tolist(),
        level=report.options.point.level.value,
        predicted_kl=report.decision.predicted_kl,
        gate_refusal=report.decision.refusal,
        observed_deviation=report.observed_deviation,
    )


def header_message(model: LoadedModel, prompt: Prompt, begun: Begun) -> pb.BlendHeader:
    """What a blend's stream begins with."""
    layout = model.engine.traits.layout
    return pb.BlendHeader(
        model_fingerprint=model.fingerprint,
        layout=convert.layout_to_wire(layout),
        token_ids=prompt.token_ids.tolist(),
        kv_tokens=begun.end,
        payload_bytes=layout.nbytes(begun.end - begun.first),
        first_token=begun.first,
        extent=_EXTENTS[begun.extent],
    )


def taken_message(taken: Taken) -> pb.StoreKvResponse:
    """Describe what became of a worker's KV."""
    return pb.StoreKvResponse(
        chunks_stored=taken.stored,
        chunks_present=taken.present,
        chunks_failed=taken.failed,
        failure_reason=taken.failure_reason,
        tokens=taken.tokens,
        stored_bytes=taken.stored_bytes,
    )
