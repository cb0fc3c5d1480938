"""The RouterService: messages to the router's work and back."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from kvquilt_codec import errors
from kvquilt_codec.catalog import check_document_id
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_proto.v1 import router_pb2_grpc
from kvquilt_router import wire
from kvquilt_router.auditing import Auditor
from kvquilt_router.background import Background
from kvquilt_router.blending import Blended, Blender
from kvquilt_router.engine import LoadedModel
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.policies import POLICIES
from kvquilt_router.precompute import Precomputer, PrefetchResult
from kvquilt_router.prefixes import KnownPrefixes
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.settings import RouterSettings
from kvquilt_router.types import Prompt
from kvquilt_router.warming import WarmUps
from kvquilt_rpc import convert, frames, status
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.status import Context
from kvquilt_rpc.version import VERSION

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
MAX_DOCUMENTS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model with what works on it."""

    loaded: LoadedModel
    blender: Blender
    precomputer: Precomputer
    background: Background
    auditor: Auditor
    warm_ups: WarmUps
    prefixes: KnownPrefixes
    profile: ModelProfile
    gate: HeldGate


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """See `router.proto`."""

    def __init__(
        self, served: list[ServedModel], node: NodeClient, settings: RouterSettings, counters: Counters
    ) -> None:
        self._served = served
        self._node = node
        self._settings = settings
        self._counters = counters

    def _model(self, name: str) -> ServedModel:
        chosen = wire.choose([served.loaded for served in self._served], name)
        return next(served for served in self._served if served.loaded is chosen)

    @status.streaming
    async def Blend(self, request: pb.BlendRequest, context: Context) -> AsyncGenerator[pb.BlendResponse, None]:
        """Assemble the KV of one prompt."""
        served = self._model(request.model)
        prompt = wire.prompt(request.prompt, served.loaded, served.prefixes)
        options = wire.options(request.options, self._settings, served.profile)
        header = _header(served.loaded, prompt)
        offset = 0
        async with aclosing(served.blender.blend(prompt, options)) as parts:
            async for part in parts:
                if header is not None:
                    # Only now: what the blend refuses at its start must come as a status, not after a header.
                    yield pb.BlendResponse(header=header)
                    header = None
                if isinstance(part, Blended):
                    if self._settings.background:
                        served.background.leave(part)
                    served.auditor.offer(part)
                    yield pb.BlendResponse(report=wire.report_message(part.report))
                else:
                    for frame in frames.split([part], offset):
                        yield pb.BlendResponse(frame=frame)
                    offset += len(part)

    @status.unary
    async def PlanBlend(self, request: pb.PlanBlendRequest, context: Context) -> pb.PlanBlendResponse:
        """Tell what a blend would do."""
        served = self._model(request.model)
        prompt = wire.prompt(request.prompt, served.loaded, served.prefixes)
        options = wire.options(request.options, self._settings, served.profile)
        tokens = len(prompt.token_ids)
        served.loaded.engine.check(prompt.token_ids, tokens)
        return wire.plan_message(await served.blender.plan(prompt, options), tokens)

    @status.streaming
    async def Prefetch(
        self, request: pb.PrefetchRequest, context: Context
    ) -> AsyncGenerator[pb.PrefetchResponse, None]:
        """Compute and store documents."""
        served = self._model(request.model)
        ids = [check_document_id(document.document_id) for document in request.documents]
        if not 1 <= len(ids) <= MAX_DOCUMENTS or len(set(ids)) != len(ids):
            raise errors.BadRequestError(
                f"expected 1..{MAX_DOCUMENTS} documents with ids of their own; got {len(ids)}, {len(set(ids))} ids"
            )
        point = served.profile.point(wire.level(request, self._settings))
        given = request.shared_prefix if request.HasField("shared_prefix") else None
        prefix = wire.shared_prefix(given, served.loaded)
        served.prefixes.remember(prefix)
        documents = wire.documents(request, served.loaded)
        passages = wire.warm_up(request, served.loaded)
        warm_up = served.warm_ups.choose(request.corpus, documents, passages)
        done = 0
        items = list(zip(ids, documents, strict=True))
        async with aclosing(served.precomputer.documents(items, prefix, point, warm_up)) as results:
            async for result in results:
                done += 1
                yield _progress(result, done, len(ids), point.level.value)

    @status.unary
    async def Forget(self, request: pb.ForgetRequest, context: Context) -> pb.ForgetResponse:
        """Delete documents."""
        if not 1 <= len(request.document_ids) <= MAX_DOCUMENTS:
            raise errors.BadRequestError(f"expected 1..{MAX_DOCUMENTS} document ids; got {len(request.document_ids)}")
        documents = [check_document_id(document) for document in request.document_ids]
        receipt = await self._node.forget(documents=documents, deadline=self._settings.put_deadline)
        return pb.ForgetResponse(
            objects_deleted=len(receipt.deleted),
            bytes_deleted=receipt.deleted_bytes,
            objects_kept_shared=receipt.kept_shared,
        )

    def _models(self) -> list[pb.Model]:
        return [wire.model_message(served.loaded, served.profile, served.gate) for served in self._served]

    @status.unary
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the models."""
        return pb.ListModelsResponse(models=self._models())

    @status.unary
    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """Tell how router and node are."""
        response = pb.GetStatusResponse(
            version=VERSION,
            models=self._models(),
            policies=list(POLICIES),
            default_policy=self._settings.policy,
            default_recompute_ratio=self._settings.recompute_ratio,
            default_level=self._settings.level,
            default_max_kl=self._settings.max_kl,
            ungated=self._settings.ungated,
            counters=self._counters.snapshot(),
            node_target=self._node.target,
        )
        try:
            node = await self._node.status(deadline=self._settings.stat_deadline)
        except errors.KvquiltError:
            return response
        response.node_reachable = True
        response.node_store = node.store
        response.node_objects = node.objects
        response.node_used_bytes = node.used_bytes
        response.node_capacity_bytes = node.capacity_bytes
        response.node_kernels = node.kernels
        return response


def _header(model: LoadedModel, prompt: Prompt) -> pb.BlendHeader | None:
    layout = model.engine.traits.layout
    token_ids = prompt.token_ids
    return pb.BlendHeader(
        model_fingerprint=model.fingerprint,
        layout=convert.layout_to_wire(layout),
        token_ids=token_ids.tolist(),
        kv_tokens=len(token_ids) - 1,
        payload_bytes=layout.nbytes(len(token_ids) - 1),
    )


def _progress(result: PrefetchResult, done: int, total: int, level: str) -> pb.PrefetchResponse:
    return pb.PrefetchResponse(
        document_id=result.document_id,
        chunks_stored=result.stored,
        chunks_present=result.present,
        chunks_failed=result.failed,
        failure_reason=result.failure_reason,
        token_count=result.tokens,
        stored_bytes=result.stored_bytes,
        compute_seconds=result.compute_seconds,
        documents_done=done,
        documents_total=total,
        level=level,
    )
