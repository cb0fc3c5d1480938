"""How long recent calls took, and after how long one counts as late. No I/O."""

from collections import deque

_WINDOW = 256
_ENOUGH = 32
_LATE = 0.95


class Latencies:
    """Seconds of the last 256 calls of one kind."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_WINDOW)

    def add(self, seconds: float) -> None:
        """Count a call that was answered."""
        self._seconds.append(seconds)

    @property
    def late(self) -> float | None:
        """Their 95th percentile: who hedges then, hedges one in twenty (Dean and Barroso, "The tail at scale", 2013).

        `None` while there are fewer than 32.
        """
        if len(self._seconds) < _ENOUGH:
            return None
        return sorted(self._seconds)[int(_LATE * len(self._seconds))]
