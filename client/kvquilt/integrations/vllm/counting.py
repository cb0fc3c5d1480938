"""Counters of the connector, and the guard that keeps its faults from the engine."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from kvquilt_rpc.counters import Counters

log = logging.getLogger("vllm.kvquilt")
"""Below vLLM's own logger, whose handlers and level it has."""

COUNTERS = (
    "requests",
    "requests_off",
    "requests_refused",
    "plans_late",
    "plans_nothing",
    "loads",
    "loads_failed",
    "loads_less",
    "tokens_exact",
    "tokens_blended",
    "saves",
    "saves_dropped",
    "saves_skipped",
    "tokens_saved",
    "faults",
)
"""docs/reference.md says what each means."""


class Tally:
    """The connector's counters, and what they grew by since they were last told."""

    def __init__(self) -> None:
        self._counters = Counters(COUNTERS)
        self._told: dict[str, int] = {}
        self._said: set[str] = set()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self._counters.add(name, amount)

    def snapshot(self) -> dict[str, int]:
        """All counters since the start."""
        return self._counters.snapshot()

    def news(self) -> dict[str, int]:
        """What counters grew by since this was last asked; those that did not are left out."""
        now = self._counters.snapshot()
        grown = {name: count - self._told.get(name, 0) for name, count in now.items()}
        self._told = now
        return {name: amount for name, amount in grown.items() if amount}

    def warn_once(self, message: str) -> None:
        """Log a warning, the first time that it comes."""
        if message not in self._said:
            self._said.add(message)
            log.warning("kvquilt: %s", message)

    def fault(self, where: str, error: Exception) -> None:
        """Count an error that must not reach the engine; logged with its trace the first time it comes from there."""
        self.add("faults")
        name = f"{where} {type(error).__name__}"
        if name not in self._said:
            self._said.add(name)
            log.error("kvquilt: fault in %s; the request is computed without the cache", where, exc_info=error)


Method = TypeVar("Method", bound=Callable[..., Any])


def guarded(fallback: Callable[[], Any]) -> Callable[[Method], Method]:
    """A method that never raises, because an error ends the engine. What it gives then, `fallback` makes.

    Its object has a `Tally` named `tally`.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:  # noqa: BLE001  # the one place where everything is caught
                self.tally.fault(method.__name__, error)
                return fallback()

        return cast(Method, call)

    return decorate
