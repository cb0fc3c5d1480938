"""Where a server's traces go: an OpenTelemetry collector, by OTLP, in the background.

What OpenTelemetry's own variables say holds: sampler, headers, certificates, sizes of queue and batches. The queue is
bounded; what a collector does not take, or not in time, is dropped, and no call waits for it.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kvquilt_codec.errors import BadRequestError
from kvquilt_rpc import spans
from kvquilt_rpc.logs import hide
from kvquilt_rpc.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

LAST_SECONDS = 5.0
"""What waits when a server ends gets so long."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_GRPC, _HTTP = "grpc", "http/protobuf"


class TracingSettings(BaseModel):
    """Traces of a server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(
        None, description="Collector of traces, http[s]://HOST:4317; unset: OTEL_EXPORTER_OTLP_ENDPOINT, or no traces."
    )

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, given: str | None) -> str | None:
        if given is not None:
            parts = urlsplit(given)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise ValueError(
                    "expected http://HOST:PORT or https://HOST:PORT without a user; headers are in "
                    "OTEL_EXPORTER_OTLP_HEADERS"
                )
        return given


def wanted(settings: TracingSettings, variables: Mapping[str, str]) -> bool:
    """Whether somebody said where traces go, and nobody said that there be none."""
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true" or variables.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return settings.endpoint is not None or any(variables.get(name) for name in _ENDPOINTS)


@contextmanager
def exporting(settings: TracingSettings, service: str) -> Iterator[None]:
    """Export the traces of this process within this context, if the settings or OpenTelemetry's variables say where to.

    Args:
        settings: see there.
        service: its name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` says another.

    Raises:
        BadRequestError: `tracing.endpoint` without the packages that it needs, or a protocol that there is not.
    """
    if not wanted(settings, os.environ):
        yield
        return
    try:
        exporter = _exporter(settings.endpoint)
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        if settings.endpoint is not None:
            raise BadRequestError(
                f"expected the package {error.name} for tracing.endpoint; it is not installed: "
                "pip install 'kvquilt[otel]'"
            ) from None
        # The variables are for all of a machine's or a pod's programs; that this one cannot follow them is no reason
        # not to serve.
        log.warning("no traces are exported: the package %s is not installed: pip install 'kvquilt[otel]'", error.name)
        yield
        return
    for name in _HEADERS:
        for pair in os.environ.get(name, "").split(","):
            hide(pair.partition("=")[2])
    own = {} if _names_service() else {"service.name": service}
    provider = TracerProvider(resource=Resource.create({**own, "service.version": VERSION}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    log.info("traces are exported")
    try:
        with spans.use(provider):
            yield
    finally:
        _ended(provider.shutdown)


def _exporter(endpoint: str | None) -> "SpanExporter":
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _GRPC)
    if protocol == _GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(endpoint=endpoint)
    if protocol == _HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        over_http: SpanExporter = OverHttp(endpoint=None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces")
        return over_http
    raise BadRequestError(f"expected {_GRPC} or {_HTTP} in OTEL_EXPORTER_OTLP_PROTOCOL; got {protocol[:40]!r}")


def _names_service() -> bool:
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in attributes


def _ended(shutdown: Callable[[], None]) -> None:
    """Export what waits; a collector that does not answer gets `LAST_SECONDS`, and the thread ends with the process."""
    thread = threading.Thread(target=shutdown, name="last-traces", daemon=True)
    thread.start()
    thread.join(LAST_SECONDS)
    if thread.is_alive():
        log.warning("the collector of traces does not answer: the last ones are lost")
