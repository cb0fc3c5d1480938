"""The RouterService: messages to the router's work and back."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from kvquilt_codec import errors
from kvquilt_codec.catalog import check_document_id
from kvquilt_codec.receipts import ForgetReceipt
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_proto.v1 import router_pb2_grpc
from kvquilt_router import answers, wire
from kvquilt_router.blending import Blended
from kvquilt_router.finishing import finish
from kvquilt_router.forgetting import Forgetting
from kvquilt_router.lifting import lifted
from kvquilt_router.misses import node_calls
from kvquilt_router.node_wire import node_message
from kvquilt_router.offered import offered_kv
from kvquilt_router.offers import Begun, Loaded
from kvquilt_router.overview import Overview
from kvquilt_router.pinning import pinned
from kvquilt_router.prefetching import prefetched, progress, require_write
from kvquilt_router.served import ServedModel
from kvquilt_router.settings import RouterSettings
from kvquilt_router.tenants import Acting, Tenant
from kvquilt_router.types import NODE_REASONS, Extent, Wanted
from kvquilt_router.why import wire as why_wire
from kvquilt_router.why.recording import planned
from kvquilt_router.why.types import RequestRecord
from kvquilt_rpc import frames, status
from kvquilt_rpc.callers import NAMESPACE_KEY, caller
from kvquilt_rpc.framing import Framing, Packing
from kvquilt_rpc.nodes import CacheNodes
from kvquilt_rpc.requests import act_in
from kvquilt_rpc.status import Context

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
MAX_DOCUMENTS = 4096

_ANSWER = Framing[pb.BlendHeader](pb.BlendResponse)


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """See `router.proto`."""

    def __init__(
        self,
        served: list[ServedModel],
        nodes: CacheNodes,
        settings: RouterSettings,
        forgetting: Forgetting,
        overview: Overview,
    ) -> None:
        self._forgetting = forgetting
        self._served = served
        self._nodes = nodes
        self._settings = settings
        self._overview = overview

    def _model(self, name: str) -> ServedModel:
        chosen = wire.choose([served.loaded for served in self._served], name)
        return next(served for served in self._served if served.loaded is chosen)

    def _acting(self, served: ServedModel) -> Acting:
        """The caller's part of a model; calls of nodes act in its namespace from now on.

        Raises:
            BadRequestError: a caller of every namespace that names none; a namespace without a secret.
            PermissionDeniedError: a namespace of its own choice where nobody is asked who calls.
        """
        identity = caller()
        namespace = identity.namespace
        if identity.anonymous:
            if namespace not in ("", self._settings.namespace):
                raise errors.PermissionDeniedError(
                    f"expected no namespace, or {self._settings.namespace!r}; got {namespace!r}: this router asks "
                    "nobody who calls, so all act in one",
                    reason="namespace_denied",
                )
            namespace = self._settings.namespace
        if not namespace:
            raise errors.BadRequestError(
                f"expected a namespace to act in, since {identity.name!r} may act in all: name one in the metadata "
                f"{NAMESPACE_KEY}",
                reason="namespace_missing",
            )
        act_in(namespace, served.loaded.fingerprint)
        may = (identity.may_write(namespace), identity.public_write)
        return Acting(served.tenants.of(namespace), served.tenants.public, *may, self._forgetting.begin())

    @status.streaming
    async def Blend(  # type: ignore[override]  # frames in their wire form, which the guard lets through
        self, request: pb.BlendRequest, context: Context
    ) -> AsyncGenerator[pb.BlendResponse | bytes, None]:
        """Assemble the KV of one prompt."""
        served = self._model(request.model)
        acting = self._acting(served)
        prompt = wire.prompt(request.prompt, served.loaded, acting.tenant.prefixes)
        options = wire.options(request.options, self._settings, served.profile)
        packing, begun, extent, came = Packing(_ANSWER), False, Extent.NOTHING, time.perf_counter()
        async with aclosing(acting.tenant.offers.give(prompt, options, wire.wanted(request.load))) as parts:
            async for part in parts:
                if isinstance(part, Begun):
                    extent = part.extent
                    yield pb.BlendResponse(header=answers.header_message(served.loaded, prompt, part))
                elif isinstance(part, Blended | Loaded):
                    yield pb.BlendResponse(report=self._finished(part, served, acting, request.options.transient))
                else:
                    if not begun:
                        served.usage.meter.began(came, extent)
                        begun = True
                    # Each tensor to its end: whoever waits for a layer must not wait for the next one too.
                    for message in (*packing.take([part]), *packing.finish()):
                        yield message

    def _finished(self, done: Blended | Loaded, served: ServedModel, acting: Acting, transient: bool) -> pb.BlendReport:
        return finish(done, served, acting, transient=transient, background=self._settings.background)

    @status.unary
    async def StoreKv(self, request_iterator: AsyncIterator[pb.StoreKvRequest], context: Context) -> pb.StoreKvResponse:
        """Take KV that a worker computed."""
        header: pb.StoreKvHeader = await frames.uploaded_header(request_iterator)
        served = self._model(header.model)
        acting = self._acting(served)
        require_write(acting.may_write, "store KV")
        offered = offered_kv(header, served.loaded)
        point = served.profile.point(wire.level(header, self._settings))
        if header.HasField("prefix_tokens"):
            acting.tenant.prefixes.remember(offered.prompt.prefix)
        return answers.taken_message(await served.taker.take(offered, request_iterator, acting, point))

    @status.unary
    async def PlanBlend(self, request: pb.PlanBlendRequest, context: Context) -> pb.PlanBlendResponse:
        """Tell what a blend would do; to a worker that will not ask for one, this is the end of its request."""
        served = self._model(request.model)
        acting = self._acting(served)
        offers = acting.tenant.offers
        prompt = wire.prompt(request.prompt, served.loaded, acting.tenant.prefixes)
        options = wire.options(request.options, self._settings, served.profile)
        wanted, started = wire.wanted(request.load), time.perf_counter()
        offer = await offers.offer(prompt, options, wanted)
        answer = answers.plan_message(offer, offers.shown(prompt, options, offer), len(prompt.token_ids))
        if request.HasField("load") and offer.extent is Extent.NOTHING:
            done = offers.declined(prompt, options, offer, wanted, started)
            answer.request_id = self._finished(done, served, acting, request.options.transient).request_id
        return answer

    @status.unary
    async def ExplainMiss(self, request: pb.ExplainMissRequest, context: Context) -> pb.ExplainMissResponse:
        """Tell why chunks were missed."""
        served = self._model(request.model)
        tenant = self._acting(served).tenant
        record = await self._asked_about(request, served, tenant)
        explanations = await tenant.explainer.explain(record, served.tenants.readable(caller()))
        nodes: list[pb.NodeStatus] = []
        if any(why.cause in NODE_REASONS for why in explanations):
            states = await self._nodes.states(deadline=self._settings.stat_deadline)
            nodes = [node_message(state, caller().may_see_all) for state in states]
        return why_wire.response(record, served.loaded.fingerprint, explanations, nodes)

    async def _asked_about(self, request: pb.ExplainMissRequest, served: ServedModel, tenant: Tenant) -> RequestRecord:
        """The request that somebody asks about, or a prompt as if it were one.

        Raises:
            BadRequestError: neither of the two, or both.
            NotFoundError: no such request in this namespace.
        """
        if bool(request.request_id) == request.HasField("prompt"):
            raise errors.BadRequestError("expected the id of a request or a prompt; got both, or neither")
        if request.request_id:
            return tenant.requests.get(request.request_id)
        prompt = wire.prompt(request.prompt, served.loaded, tenant.prefixes)
        options = wire.options(request.options, self._settings, served.profile)
        offer = await tenant.offers.offer(prompt, options, Wanted())
        return planned(prompt, tenant.offers.shown(prompt, options, offer), served.background.waiting())

    @status.streaming
    async def Prefetch(
        self, request: pb.PrefetchRequest, context: Context
    ) -> AsyncGenerator[pb.PrefetchResponse, None]:
        """Compute and store documents."""
        served = self._model(request.model)
        acting = self._acting(served)
        ids = [check_document_id(document.document_id) for document in request.documents]
        if not 1 <= len(ids) <= MAX_DOCUMENTS or len(set(ids)) != len(ids):
            raise errors.BadRequestError(
                f"expected 1..{MAX_DOCUMENTS} documents with ids of their own; got {len(ids)}, {len(set(ids))} ids"
            )
        point = served.profile.point(wire.level(request, self._settings))
        done = 0
        async with aclosing(prefetched(request, served.loaded, acting, point)) as results:
            async for result in results:
                done += 1
                yield progress(result, done, len(ids), point.level.value)

    @status.unary
    async def Forget(self, request: pb.ForgetRequest, context: Context) -> pb.ForgetResponse:
        """Delete documents, or all of a namespace."""
        least = 0 if request.everything else 1
        if not least <= len(request.document_ids) <= MAX_DOCUMENTS * least:
            raise errors.BadRequestError(
                f"expected 1..{MAX_DOCUMENTS} document ids, or none with everything; got {len(request.document_ids)}"
            )
        acting = self._acting(self._served[0])
        require_write(acting.may_write, "forget")
        documents = [check_document_id(document) for document in request.document_ids]
        with node_calls():
            if request.everything:
                receipt = await self._forget_namespace(acting.tenant.planner.namespace.name)
            else:
                receipt = await self._nodes.forget(documents=documents, deadline=self._settings.put_deadline)
        for served in self._served:
            served.held.drop_all(receipt.deleted)
        return pb.ForgetResponse(
            objects_deleted=len(receipt.deleted),
            bytes_deleted=receipt.deleted_bytes,
            objects_kept_shared=receipt.kept_shared,
            objects_pending=receipt.pending,
        )

    @status.unary
    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.PinResponse:
        """Keep documents from eviction, or do so no more."""
        if not 1 <= len(request.document_ids) <= MAX_DOCUMENTS:
            raise errors.BadRequestError(f"expected 1..{MAX_DOCUMENTS} document ids; got {len(request.document_ids)}")
        require_write(self._acting(self._served[0]).may_write, "pin")
        with node_calls():
            return await pinned(self._nodes, request, self._settings.put_deadline)

    @status.unary
    async def LiftWithdrawal(self, request: pb.LiftWithdrawalRequest, context: Context) -> pb.LiftWithdrawalResponse:
        """Use a withdrawn point of the gate again."""
        served = self._model(request.model)
        return await lifted(served.gate, served.sharing, request, caller())

    async def _forget_namespace(self, namespace: str) -> ForgetReceipt:
        """What the router knows first: it must store nothing again of what the nodes forget."""
        for served in self._served:
            served.tenants.forget(namespace)
            served.background.forget(namespace)
        await self._forgetting.forget(namespace)
        return await self._nodes.forget_namespace(namespace, deadline=self._settings.put_deadline)

    @status.unary
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the models."""
        return pb.ListModelsResponse(models=self._overview.models())

    @status.unary
    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """Tell how router and nodes are."""
        return await self._overview.status(caller())

    @status.unary
    async def ListRequests(self, request: pb.ListRequestsRequest, context: Context) -> pb.ListRequestsResponse:
        """Tell of the latest requests."""
        return self._overview.requests(caller(), request.request_id, request.limit)
