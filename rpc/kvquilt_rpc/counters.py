"""Named counters since start. A fallback that nobody counts is a fallback that nobody notices."""

import threading
from collections import Counter


class Counters:
    """Counts by name; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All counters, in the order of their names."""
        with self._lock:
            return dict(sorted(self._counts.items()))
