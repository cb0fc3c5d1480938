"""The calls that a worker makes, in its event loop. What fails is an answer with a reason, and counted."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from kvquilt import wire as client_wire
from kvquilt.layers import ArrivedLayer, BlendPart, LayerStream, blend_call
from kvquilt.types import BlendReport
from kvquilt.worker import wire
from kvquilt.worker.availability import Availability
from kvquilt.worker.saving import SaveQueue, messages
from kvquilt.worker.types import Extent, KvToSave, LoadPlan, LoadReport, ServedModel, WorkerOptions, WorkerRequest
from kvquilt_codec.errors import DeadlineError, FingerprintMismatchError, IntegrityError, KvquiltError, UnavailableError
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_proto.v1 import router_pb2_grpc
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.pace import Pace
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.status import translated, well_formed

log = logging.getLogger(__name__)


class RouterCalls:
    """Calls of one router for one model; made inside the event loop that runs them.

    Attributes:
        pace: how fast the engine computes prompts, as it said.
    """

    def __init__(
        self, model: ServedModel, target: str, credentials: Credentials, options: WorkerOptions, counters: Counters
    ) -> None:
        # The namespace is said with each call, so that requests may name another.
        self._namespace = credentials.namespace
        self._channel = open_channel(target, credentials.model_copy(update={"namespace": ""}))
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)
        self._blend = blend_call(self._channel)
        self._model = model
        self._options = options
        self._counters = counters
        self._availability = Availability(self._probe, options, counters)
        self._saves = SaveQueue(self._send, options, counters)
        self.pace = Pace()

    @classmethod
    async def opened(
        cls, model: ServedModel, target: str, credentials: Credentials, options: WorkerOptions, counters: Counters
    ) -> "RouterCalls":
        """Open a channel; nothing is called yet."""
        return cls(model, target, credentials, options, counters)

    async def close(self) -> None:
        """End all calls."""
        await self._saves.close()
        await self._availability.close()
        await self._channel.close()

    async def settle(self, deadline: float | None) -> bool:
        """Wait until what is queued is saved, or failed; whether it was within so many seconds."""
        try:
            async with asyncio.timeout(deadline):
                await self._saves.settle()
        except TimeoutError:
            return False
        return True

    async def save(self, saving: KvToSave) -> bool:
        """Queue KV to be saved; whether there was room."""
        if not self._availability.here:
            self._counters.add("calls_skipped")
            return False
        return self._saves.put(saving)

    async def plan(self, request: WorkerRequest, deadline: float) -> LoadPlan:
        """See `WorkerCache.plan`."""
        self._counters.add("plans")
        if request.computed_tokens >= len(request.token_ids) - 1:
            self._counters.add("plans_nothing")
            return _nothing(request, "nothing_new")
        if not self._availability.here:
            self._counters.add("calls_skipped")
            return _nothing(request, "router_lost")
        began = time.monotonic()
        try:
            message = pb.PlanBlendRequest(
                model=self._model.fingerprint,
                prompt=wire.prompt(request),
                options=wire.options(request),
                load=wire.load(request, request.extent, self._seconds_per_token(request)),
            )
            async with translated():
                with self._acting(request):
                    call = self._stub.PlanBlend(message, timeout=deadline)
                response = well_formed(await call)
            plan = wire.plan(response, request, time.monotonic() - began)
        except KvquiltError as error:
            return _nothing(request, self._failed(error, "plans_failed", silent=True), time.monotonic() - began)
        self._counters.add(f"plans_{plan.extent.value}")
        return plan

    async def fetch(
        self, request: WorkerRequest, plan: LoadPlan, deliver: Callable[[ArrivedLayer], None], deadline: float
    ) -> LoadReport:
        """See `WorkerCache.fetch`; layers are delivered in the event loop, which must not be kept."""
        self._counters.add("loads")
        if not self._availability.here:
            self._counters.add("calls_skipped")
            return _Fetch(request).report("router_lost")
        fetch = _Fetch(request)
        try:
            await self._fetched(fetch, plan, deliver, deadline)
        except KvquiltError as error:
            return fetch.report(self._failed(error, "loads_failed", silent=fetch.stream is None))
        report = fetch.report("")
        self._counters.add("tokens_loaded", report.kv_tokens - report.first_token)
        self._counters.add("bytes_loaded", report.bytes)
        if report.kv_tokens < plan.kv_tokens:
            self._counters.add("loads_less")
        return report

    async def _fetched(
        self, fetch: "_Fetch", plan: LoadPlan, deliver: Callable[[ArrivedLayer], None], deadline: float
    ) -> None:
        request = fetch.request
        message = pb.BlendRequest(
            model=self._model.fingerprint,
            prompt=wire.prompt(request),
            options=wire.options(request),
            load=wire.load(request, plan.extent, self._seconds_per_token(request)),
        )
        async with translated():
            with self._acting(request):
                call = self._blend(message, timeout=deadline)
            try:
                async for answer in call:
                    for layer in fetch.take(well_formed(answer), plan, self._model):
                        deliver(layer)
            finally:
                call.cancel()  # does nothing to a call that has ended
        fetch.finish()

    async def _send(self, saving: KvToSave) -> pb.StoreKvResponse:
        if not self._availability.here:
            raise UnavailableError("expected a router; it was lost, and is probed in the background")
        try:
            async with translated():
                parts = messages(saving, self._model, self._seconds_per_token(saving.request))
                with self._acting(saving.request):
                    call = self._stub.StoreKv(parts, timeout=self._options.save_deadline)
                return well_formed(await call)
        except UnavailableError:
            self._availability.lost()
            raise

    async def _probe(self, deadline: float) -> object:
        async with translated():
            return await self._stub.ListModels(pb.ListModelsRequest(), timeout=deadline)

    def _seconds_per_token(self, request: WorkerRequest) -> float | None:
        return self.pace.seconds if request.seconds_per_token is None else request.seconds_per_token

    def _acting(self, request: WorkerRequest) -> AbstractContextManager[None]:
        return acting_in(request.namespace or self._namespace)

    def _failed(self, error: KvquiltError, counter: str, *, silent: bool) -> str:
        """Count a failure; its reason. A router that said nothing at all is lost."""
        self._counters.add(counter)
        if isinstance(error, UnavailableError | DeadlineError) and silent:
            self._availability.lost()
        log.warning("kvquilt could not help: %s", error)
        return error.reason


class _Fetch:
    """One fetch on its way."""

    def __init__(self, request: WorkerRequest) -> None:
        self.request = request
        self.stream: LayerStream | None = None
        self._extent = Extent.NOTHING
        self._began = time.monotonic()
        self._first_layer: float | None = None
        self._bytes = 0
        self._report: BlendReport | None = None

    def take(self, response: BlendPart, plan: LoadPlan, model: ServedModel) -> list[ArrivedLayer]:
        """The next message; the layers that it completes.

        Raises:
            IntegrityError, FingerprintMismatchError: it is not what was asked for.
        """
        if self.stream is None:
            self.stream = LayerStream(response)
            self._check(self.stream, plan, model)
            self._extent = wire.extent(self.stream.extent)
            return []
        layers = list(self.stream.take(response))
        if layers and self._first_layer is None:
            self._first_layer = time.monotonic() - self._began
        self._bytes += sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        return layers

    def _check(self, stream: LayerStream, plan: LoadPlan, model: ServedModel) -> None:
        if stream.model_fingerprint != model.fingerprint or stream.layout != model.layout:
            raise FingerprintMismatchError(
                f"expected KV of model {model.fingerprint[:16]}; the router sent that of "
                f"{stream.model_fingerprint[:16]}, or in another layout"
            )
        if not np.array_equal(stream.token_ids, self.request.token_ids):
            raise FingerprintMismatchError("expected KV of the tokens that were sent; the router's differ")
        if stream.first_token != plan.first_token or stream.kv_tokens > plan.kv_tokens:
            raise IntegrityError(
                f"expected KV of the tokens {plan.first_token} to {plan.kv_tokens}, or less; the router sends "
                f"{stream.first_token} to {stream.kv_tokens}"
            )

    def finish(self) -> None:
        """All has come.

        Raises:
            IntegrityError: it has not.
        """
        if self.stream is None:
            raise IntegrityError("expected a header; the router's stream was empty")
        self._report = client_wire.report(self.stream.finish())

    def report(self, reason: str) -> LoadReport:
        """What came."""
        first = self.request.computed_tokens
        end = first if self.stream is None or reason else self.stream.kv_tokens
        seconds = time.monotonic() - self._began
        return LoadReport(first, end, reason, self._extent, self._bytes, self._first_layer, seconds, self._report)


def _nothing(request: WorkerRequest, reason: str, seconds: float = 0.0) -> LoadPlan:
    first = request.computed_tokens
    return LoadPlan(Extent.NOTHING, first, first, reason=reason, seconds=seconds)
