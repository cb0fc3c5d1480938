"""Why chunks of a request were missed: what the record says, then what the cache can still tell."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import Namespace
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.planning import Planner
from kvquilt_router.refusals import Refusals
from kvquilt_router.storing import MODEL_PARTS
from kvquilt_router.why.comparing import Text
from kvquilt_router.why.nearest import NEVER, Nearest
from kvquilt_router.why.tracing import Elsewhere, Traced, traced
from kvquilt_router.why.types import ChunkRecord, Explanation, RequestRecord
from kvquilt_rpc.nodes import CacheNodes, ObjectRef

log = logging.getLogger(__name__)


class Explainer:
    """Explains misses of one model in one namespace.

    Args:
        nodes: that are asked.
        planner: names the chunks.
        parts: of the model's fingerprint; see `ModelFingerprint.parts`.
        text: token ids as text; empty if the model has no tokenizer.
        gate: that decided.
        refusals: what could not be stored.
        deadline: seconds for each question to the nodes.
    """

    def __init__(
        self,
        nodes: CacheNodes,
        planner: Planner,
        parts: Mapping[str, str],
        text: Text,
        gate: HeldGate,
        refusals: Refusals,
        *,
        deadline: float,
    ) -> None:
        self._nodes = nodes
        self._planner = planner
        self._parts = parts
        self._gate = gate
        self._refusals = refusals
        self._deadline = deadline
        self._text = text

    async def explain(self, record: RequestRecord, readable: Sequence[Namespace] = ()) -> list[Explanation]:
        """Why each chunk of a request was missed; an empty cause for those that were served.

        Args:
            record: of the request.
            readable: further namespaces that the caller may read: what is stored there is told.
        """
        missed = [number for number, chunk in enumerate(record.chunks) if chunk.miss_reason == "not_stored"]
        found = {number: Explanation("undetermined") for number in missed}
        try:
            chunks = [record.chunks[number] for number in missed]
            traces = (
                await traced(self._nodes, self._planner, record, chunks, readable, deadline=self._deadline)
                if missed
                else []
            )
            for number, trace in zip(missed, traces, strict=True):
                found[number] = await self._not_stored(record, record.chunks[number], trace)
            nearest = Nearest(self._nodes, self._planner, self._text, record, deadline=self._deadline)
            never = [number for number in missed if found[number].cause == NEVER.cause]
            for number, told in (await nearest.explain(never)).items():
                found[number] = replace(told, stored_since=found[number].stored_since)
        except KvquiltError as error:
            log.warning("a miss could not be explained: %s", error)
            unknown = Explanation("undetermined", detail=error.reason)
            sure = {number: told for number, told in found.items() if told.cause not in (NEVER.cause, unknown.cause)}
            found = dict.fromkeys(missed, unknown) | sure
        return [
            found[number] if number in found else self._recorded(record, chunk)
            for number, chunk in enumerate(record.chunks)
        ]

    def _recorded(self, record: RequestRecord, chunk: ChunkRecord) -> Explanation:
        """What the record alone explains."""
        if chunk.miss_reason != "gate_closed":
            return Explanation(chunk.miss_reason)
        return Explanation("gate_closed", predicted_kl=self._gate.least(record.options, chunk.context))

    async def _not_stored(self, record: RequestRecord, chunk: ChunkRecord, trace: Traced) -> Explanation:
        before, since = _split(trace.objects, record.at)
        stored_since = any(_serves(info, chunk, trace) for info in since)
        departed = trace.departed
        if departed is not None and (record.at is None or departed.at <= record.at):
            return Explanation(departed.reason, stored_since, departed.at)
        if chunk.queued:
            return Explanation("queued", stored_since)
        if reason := self._refusals.reason(chunk.ref.chunk_key):
            return Explanation("not_kept", stored_since, detail=reason)
        here = [info for info in before if info.meta.prefix_digest == trace.place.prefix_digest]
        if here:
            forms = {chunk.ref.point.form, LOSSLESS}
            other = next((info.meta.form.name for info in here if info.meta.form not in forms), "")
            return Explanation("other_form" if other else "other_context", stored_since, stored_form=other)
        if before:
            return Explanation("other_prefix", stored_since)
        elsewhere = [(where, info) for where, info in trace.elsewhere if _split([info], record.at)[0]]
        if elsewhere:
            return await self._elsewhere(*elsewhere[0], stored_since)
        return replace(NEVER, stored_since=stored_since)

    async def _elsewhere(self, where: Elsewhere, info: ObjectInfo, stored_since: bool) -> Explanation:
        if where.namespace:
            return Explanation("other_namespace", stored_since, namespace=where.namespace)
        try:
            found = await self._nodes.traces.describe(ObjectRef.of(info), where.model, deadline=self._deadline)
            parts = msgspec.json.decode(found.head.header.attributes.get(MODEL_PARTS, "{}"), type=dict[str, str])
        except (KvquiltError, msgspec.MsgspecError) as error:
            log.warning("it is not known how another model differs: %s", error)
            parts = {}
        differences = tuple(name for name, digest in self._parts.items() if parts and parts.get(name) != digest)
        return Explanation("other_model", stored_since, other_model=where.model, differences=differences)


def _split(infos: Sequence[ObjectInfo], at: float | None) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """Objects that were there at a time, and those that came after it."""
    before = [info for info in infos if at is None or info.created <= at]
    return before, [info for info in infos if at is not None and info.created > at]


def _serves(info: ObjectInfo, chunk: ChunkRecord, trace: Traced) -> bool:
    """Whether an object would be found for a chunk now."""
    right = info.meta.prefix_digest == trace.place.prefix_digest
    return right and info.meta.form in (chunk.ref.point.form, LOSSLESS)
