"""Named counters since start. A fallback that nobody counts is a fallback that nobody notices."""

import threading
from collections.abc import Iterable

CALL_COUNTERS = ("calls_unauthenticated", "calls_denied", "calls_limited", "calls_shed")
"""What a server refuses before a service sees it; counters of every server."""


class Counters:
    """Counts by name; safe from any thread.

    Args:
        names: every counter there is. All start at 0 and are always shown.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(sorted(names), 0)

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter.

        Raises:
            KeyError: a name that was not declared: a mistake in our own code.
        """
        with self._lock:
            self._counts[name] = self._counts[name] + amount

    def snapshot(self) -> dict[str, int]:
        """All counters, in the order of their names."""
        with self._lock:
            return dict(self._counts)
