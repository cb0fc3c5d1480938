"""Counts the calls of a server, by how they end, and how long they take."""

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import grpc
from google.protobuf import descriptor_pool

from kvquilt_rpc.metrics.measured import Histogram, Sums
from kvquilt_rpc.metrics.names import CALL_SECONDS, CALLS, CALLS_RUNNING
from kvquilt_rpc.metrics.values import Values

_WATCHED = ("OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL")
"""Codes that are exported from the start: a rate of what was never there before cannot be seen."""


class CallMeter:
    """Measures calls.

    Args:
        services: full names, of which all methods are exported from the start.
    """

    def __init__(self, services: Iterable[str]) -> None:
        methods = [method for service in services for method in _methods(service)]
        self._calls = Sums(CALLS, [(method, code) for method in methods for code in _WATCHED])
        self._seconds = Histogram(CALL_SECONDS, [(method,) for method in methods])
        self._running = 0

    def begun(self, method: str, context: Any) -> None:
        """A call of a method, by its path, has come; gRPC's `context` of it tells when it ends."""
        began = perf_counter()
        name = method.rpartition("/")[2]
        self._running += 1

        def ended(ended: Any) -> None:
            self._running -= 1
            self._calls.add(1, name, _code(ended))
            self._seconds.observe(perf_counter() - began, name)

        context.add_done_callback(ended)

    def collect(self, values: Values) -> None:
        """Export it."""
        values.measured(self._calls, self._seconds)
        values.set(CALLS_RUNNING, self._running)


def _methods(service: str) -> list[str]:
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return []
    return [method.name for method in found.methods]


def _code(context: Any) -> str:
    """The status code that a call ended with; its caller may have gone before there was one."""
    code = context.code()
    if code:
        return str(code.name) if isinstance(code, grpc.StatusCode) else "UNKNOWN"
    if context.done():
        return "OK"
    left = context.time_remaining()
    return "DEADLINE_EXCEEDED" if left is not None and left <= 0 else "CANCELLED"
