"""Spans by OpenTelemetry. Only `spans` imports this, where the process has OpenTelemetry."""

import re
from collections.abc import Mapping
from contextvars import Token
from typing import Any

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kvquilt_rpc import requests
from kvquilt_rpc.spans import ATTRIBUTES, NOTHING, Span, Value, reason_of
from kvquilt_rpc.version import VERSION

PREFIX = "kvquilt."
_W3C = TraceContextTextMapPropagator()
_HEALTH = "/grpc.health.v1.Health/"
_CODE = re.compile(r"[A-Za-z][A-Za-z_]{0,63}")
_MAX_TEXT = 128


class Recorded:
    """See `Span`. A message of an error is not recorded: it may hold what the caller sent."""

    def __init__(self, recorded: trace.Span) -> None:
        self._span = recorded
        self._token: Token[context.Context] | None = None

    def __enter__(self) -> "Recorded":
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self._token is not None:
            context.detach(self._token)
        self.end("" if error is None else reason_of(error))

    def current(self) -> None:
        """Make it the current span for as long as this context lasts."""
        context.attach(trace.set_span_in_context(self._span))

    def set(self, **attributes: Value) -> None:
        """See `Span.set`."""
        for name, value in checked(attributes).items():
            self._span.set_attribute(name, value)

    def coded(self, code: int) -> None:
        """It is a call that ended with a status code."""
        self._span.set_attribute("rpc.grpc.status_code", code)

    def end(self, reason: str = "", /) -> None:
        """See `Span.end`."""
        if reason:
            code = reason if _CODE.fullmatch(reason) else "other"
            self._span.set_attribute(PREFIX + "reason", code)
            self._span.set_status(Status(StatusCode.ERROR, code))
        self._span.end()


class Called:
    """See `Calling`."""

    def __init__(self, recorded: Recorded, metadata: tuple[tuple[str, str], ...]) -> None:
        self._recorded = recorded
        self.metadata = metadata

    def made(self, call: Any) -> None:
        """See `Calling.made`."""
        call.add_done_callback(self._done)

    def _done(self, call: Any) -> None:
        code = grpc.StatusCode.UNKNOWN
        asked = call.code()
        try:
            asked.send(None)  # of a call that is done it is known, and nothing is waited for
        except StopIteration as found:
            code = found.value
        finally:
            asked.close()
        self._recorded.coded(code.value[0])
        self._recorded.end("" if code is grpc.StatusCode.OK else code.name)


class Tracing:
    """Makes spans.

    Args:
        provider: whose; `None`: the application's, also if it sets one later.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("kvquilt", VERSION, provider)

    def span(self, name: str, attributes: Mapping[str, Value]) -> Recorded:
        """See `spans.span`."""
        return Recorded(self._tracer.start_span(name, attributes=checked(attributes)))

    def note(self, attributes: Mapping[str, Value]) -> None:
        """See `spans.note`."""
        current = trace.get_current_span()
        for name, value in checked(attributes).items():
            current.set_attribute(name, value)

    def identity(self) -> tuple[str, str] | None:
        """See `spans.identity`."""
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return None
        return trace.format_trace_id(here.trace_id), trace.format_span_id(here.span_id)

    def calling(self, method: str) -> Called | None:
        """See `spans.calling`. Probes of health are no part of anything."""
        if method.startswith(_HEALTH):
            return None
        recorded = self._tracer.start_span(method.strip("/"), kind=SpanKind.CLIENT, attributes=_of(method))
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(recorded))
        return Called(Recorded(recorded), tuple(carrier.items()))

    def serving(self, method: str, metadata: Mapping[str, str]) -> Span:
        """See `spans.serving`."""
        if method.startswith(_HEALTH):
            return NOTHING
        # Of what the caller sent, the trace's ids alone: other headers of tracing systems may hold anything.
        parent = _W3C.extract({name: metadata[name] for name in _W3C.fields if name in metadata}, context.Context())
        attributes = {**_of(method), PREFIX + "request_id": requests.current().request_id}
        recorded = Recorded(
            self._tracer.start_span(method.strip("/"), parent, kind=SpanKind.SERVER, attributes=attributes)
        )
        recorded.current()
        return recorded


def checked(attributes: Mapping[str, Value]) -> dict[str, Value]:
    """Attributes under their full names.

    Raises:
        KeyError: a name that was not declared: a mistake in our own code.
    """
    found: dict[str, Value] = {}
    for name, value in attributes.items():
        if name not in ATTRIBUTES:
            raise KeyError(name)
        found[PREFIX + name] = value[:_MAX_TEXT] if isinstance(value, str) else value
    return found


def _of(method: str) -> dict[str, Value]:
    service, _, name = method.strip("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
