"""Stands before every call of a server: who calls, within which limits. Only the health service is open to all."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from kvquilt_codec import errors
from kvquilt_rpc import status
from kvquilt_rpc.admission import ENDS, Lanes, Turn
from kvquilt_rpc.authentication import Authenticator
from kvquilt_rpc.callers import CALLER
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.limits import Admitted, Limiter
from kvquilt_rpc.metrics.calls import CallMeter
from kvquilt_rpc.refusing import Refusing
from kvquilt_rpc.running import RunningCalls
from kvquilt_rpc.serving import serving

_OPEN = "/grpc.health.v1.Health/"
Parse = Callable[[bytes], Any]
"""Reads a message, or raises DecodeError."""


class Guard(grpc.aio.ServerInterceptor):
    """Authenticates and limits calls before their request is read; services find the identity by `caller`.

    Those that were let in are counted by `running` while they run.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: Limiter,
        lanes: Lanes,
        counters: Counters,
        running: RunningCalls,
        meter: CallMeter | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        self._lanes = lanes
        self._refusing = Refusing(counters)
        self._meter = meter or CallMeter(())
        self._running = running

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """A handler that lets through whom it knows."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        # Requests always as a stream, also a single one: so nothing of it is read before the caller is known.
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        guarded = self._streaming(handler, method) if handler.response_streaming else self._unary(handler, method)
        serialise = handler.response_serializer
        # Requests come in their wire form: their size is known without asking protobuf, which would write them again.
        # So may answers that a service has written itself (`framing`).
        return make(guarded, None, lambda answer: answer if isinstance(answer, bytes) else serialise(answer))

    def _unary(self, handler: Any, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        parse, slots = handler.request_deserializer, self._lanes.of(method)

        async def guarded(requests: AsyncIterator[bytes], context: Any) -> Any:
            self._meter.begun(method, context)
            try:
                identity = self._authenticator.identify(context)
                ENDS.set(_ends(context))
                with (
                    self._limiter.admit(identity.name) as admitted,
                    self._running.call(method),
                    serving(method, context, identity),
                ):
                    async with slots.turn() as turn:
                        CALLER.set(identity)
                        if handler.request_streaming:
                            return await handler.stream_unary(_counted(requests, admitted, parse, turn), context)
                        return await handler.unary_unary(await _only(requests, admitted, parse), context)
            except (errors.KvquiltError, DecodeError) as error:
                # Services answer for themselves: what comes here was refused before they were called.
                self._refusing.refused(method, context.peer(), error)
                await status.abort(context, error)

        return guarded

    def _streaming(self, handler: Any, method: str) -> Callable[[Any, Any], AsyncIterator[Any]]:
        parse, slots = handler.request_deserializer, self._lanes.of(method)

        async def guarded(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            self._meter.begun(method, context)
            try:
                identity = self._authenticator.identify(context)
                ENDS.set(_ends(context))
                with (
                    self._limiter.admit(identity.name) as admitted,
                    self._running.call(method),
                    serving(method, context, identity),
                ):
                    async with slots.turn() as turn:
                        CALLER.set(identity)
                        if handler.request_streaming:
                            answers = handler.stream_stream(_counted(requests, admitted, parse, turn), context)
                        else:
                            answers = handler.unary_stream(await _only(requests, admitted, parse), context)
                        async with aclosing(answers) as items:
                            async for item in items:
                                with turn.apart():
                                    yield item
            except (errors.KvquiltError, DecodeError) as error:
                # Services answer for themselves: what comes here was refused before they were called.
                self._refusing.refused(method, context.peer(), error)
                await status.abort(context, error)

        return guarded


def _ends(context: Any) -> float | None:
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left


async def _only(requests: AsyncIterator[bytes], admitted: Admitted, parse: Parse) -> Any:
    """The request of a call that takes one."""
    async for request in requests:
        admitted.sent(len(request))
        return parse(request)
    raise errors.BadRequestError("expected a request; the call ended without one")


async def _counted(requests: AsyncIterator[bytes], admitted: Admitted, parse: Parse, turn: Turn) -> AsyncIterator[Any]:
    coming = aiter(requests)
    while True:
        with turn.apart():
            request = await anext(coming, None)
        if request is None:
            return
        admitted.sent(len(request))
        yield parse(request)
