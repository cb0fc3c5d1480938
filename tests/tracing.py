"""Traces for tests: what is traced within a context, as trees."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from kvquilt_rpc import spans


class Traces:
    """What was traced, once it has ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def spans(self, name: str = "", trace: int | None = None) -> list[ReadableSpan]:
        """Those of a name, all by default, in the order of their begin."""
        found = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)
        return [s for s in found if name in ("", s.name) and trace in (None, s.context.trace_id)]

    def parents(self, trace: int) -> set[tuple[str, str]]:
        """Names of all pairs of parent and child; a parent that was not traced here is "?", none is ""."""
        found = self.spans(trace=trace)
        names = {span.context.span_id: span.name for span in found}
        return {(names.get(span.parent.span_id, "?") if span.parent else "", span.name) for span in found}

    def clear(self) -> None:
        """Forget what was traced."""
        self._exporter.clear()


@contextmanager
def tracing(sampler: Sampler | None = None) -> Iterator[Traces]:
    """Trace everything in this process; yields what was traced."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with spans.use(provider):
        yield Traces(exporter)
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, object]:
    """What a span says, by the names of `spans.ATTRIBUTES`."""
    return {name.removeprefix("kvquilt."): value for name, value in (span.attributes or {}).items()}
