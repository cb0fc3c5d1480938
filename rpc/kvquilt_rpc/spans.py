"""Spans of a trace, where somebody traces: an application with OpenTelemetry, or a server that is told to export.

Nothing is imported here. Without OpenTelemetry in the process each call costs a look at `sys.modules`; what is done
with it is in `otel`. Names of spans and attributes are in docs/tracing.md.
"""

import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from kvquilt_codec.errors import KvquiltError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from kvquilt_rpc.otel import Tracing

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Value = str | int | float | bool
Awaited = Coroutine[Any, Any, Result]

ATTRIBUTES = frozenset(
    {
        "busy_seconds",
        "bytes",
        "call",
        "chunks",
        "failed",
        "first_layer",
        "hedged",
        "medium",
        "layers",
        "level",
        "misses",
        "model",
        "namespace",
        "node",
        "objects",
        "policy",
        "present",
        "reason",
        "request_id",
        "stored",
        "tier",
        "tokens",
        "tokens_computed",
        "tokens_exact",
        "tokens_recomputed",
        "tokens_reused",
    }
)
"""All that a span may say: numbers, names of parts and codes of reasons. No text, no token, no key."""

MODULE = "opentelemetry.trace"


class Span(Protocol):
    """Something that takes time. As a context manager it is the parent of what is begun inside."""

    def __enter__(self) -> "Span":
        """It becomes the current one."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """It ends; an error inside is its reason."""

    def set(self, **attributes: Value) -> None:
        """Say something of it: names of `ATTRIBUTES`."""

    def end(self, reason: str = "", /) -> None:
        """It is over, and failed if there is a reason."""


class _Nothing:
    """The span of somebody who does not trace."""

    __slots__ = ()

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set(self, **_: Value) -> None:
        return None

    def end(self, _: str = "") -> None:
        return None


NOTHING = _Nothing()
_chosen: "Tracing | None" = None
_found: "Tracing | None" = None


def tracing() -> "Tracing | None":
    """Who traces: the provider in `use`, else that of the application, if it has OpenTelemetry loaded."""
    global _found
    if _chosen is not None or _found is not None:
        return _chosen or _found
    module = sys.modules.get(MODULE)
    if module is None or getattr(module.__spec__, "_initializing", False):
        return None
    from kvquilt_rpc.otel import Tracing

    _found = Tracing(None)
    return _found


@contextmanager
def use(provider: "TracerProvider") -> Iterator[None]:
    """Trace with a provider of one's own within this context, in the whole process."""
    global _chosen
    from kvquilt_rpc.otel import Tracing

    before, _chosen = _chosen, Tracing(provider)
    try:
        yield
    finally:
        _chosen = before


def span(name: str, **attributes: Value) -> Span:
    """A span below the current one: use it as a context manager, and not around a `yield`."""
    found = tracing()
    return NOTHING if found is None else found.span(name, attributes)


def note(**attributes: Value) -> None:
    """Say something of the current span."""
    found = tracing()
    if found is not None:
        found.note(attributes)


def traced(
    name: str, **attributes: Value
) -> Callable[[Callable[Arguments, Awaited[Result]]], Callable[Arguments, Awaited[Result]]]:
    """A coroutine function whose calls are spans."""

    def wrapped(
        call: Callable[Arguments, Awaited[Result]],
    ) -> Callable[Arguments, Awaited[Result]]:
        @functools.wraps(call)
        async def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with span(name, **attributes):
                return await call(*args, **kwargs)

        return within

    return wrapped


@asynccontextmanager
async def waited(name: str, slot: AbstractAsyncContextManager[object]) -> AsyncIterator[None]:
    """Hold a slot; waiting for it is a span."""
    async with AsyncExitStack() as stack:
        with span(name):
            await stack.enter_async_context(slot)
        yield


LAYERS_A_SPAN = 8


class LayerGroups:
    """Spans of layers that are computed one after the other, `LAYERS_A_SPAN` in each.

    Args:
        name: of each span.
        layers: how many there are.
    """

    def __init__(self, name: str, layers: int) -> None:
        self._name = name
        self._layers = layers
        self._span: Span = NOTHING

    def __enter__(self) -> "LayerGroups":
        self._begin(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._span.end()

    def done(self, layer: int) -> None:
        """A layer is computed."""
        if (layer + 1) % LAYERS_A_SPAN == 0 and layer + 1 < self._layers:
            self._span.end()
            self._begin(layer + 1)

    def _begin(self, first: int) -> None:
        self._span = span(self._name, first_layer=first, layers=min(LAYERS_A_SPAN, self._layers - first))


def reason_of(error: BaseException) -> str:
    """The code of an error, or its type; never its message, which may hold what a caller sent."""
    return error.reason if isinstance(error, KvquiltError) else type(error).__name__


def identity() -> tuple[str, str] | None:
    """Ids of the current trace and span in hexadecimal, if there are any."""
    found = tracing()
    return None if found is None else found.identity()


class Calling(Protocol):
    """A call that a client makes."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """By which the server continues the trace."""

    def made(self, call: Any) -> None:
        """This is the call; the span ends with it."""


def calling(method: str) -> Calling | None:
    """A call of a method, by its path, is made now; `None`: nobody traces it."""
    found = tracing()
    return None if found is None else found.calling(method)


def serving(method: str, metadata: Mapping[str, str]) -> Span:
    """A call is served: the trace goes on that its metadata tell of. The span is current until the call's task ends."""
    found = tracing()
    return NOTHING if found is None else found.serving(method, metadata)
