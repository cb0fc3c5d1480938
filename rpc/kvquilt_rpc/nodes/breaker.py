"""A circuit breaker: who fails again and again is left alone for a while, then tried with one call. No I/O.

Nygard, "Release It!", 2007. Time is passed in.
"""

from collections.abc import Callable
from enum import Enum


class BreakerState(Enum):
    """Closed: calls go through. Open: none does. Half open: one does, and its outcome decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Counts failures in a row.

    Args:
        clock: seconds that only grow.
        threshold: failures in a row that open it.
        first_wait: seconds that it stays open at first; they double with each trial that fails.
        last_wait: most seconds that it stays open.
    """

    def __init__(self, clock: Callable[[], float], *, threshold: int, first_wait: float, last_wait: float) -> None:
        self._clock = clock
        self._threshold = threshold
        self._first_wait = first_wait
        self._last_wait = last_wait
        self._failures = 0
        self._wait = 0.0
        self._opened: float | None = None
        self._trial = False

    @property
    def state(self) -> BreakerState:
        """What it does with calls now."""
        if self._opened is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._clock() - self._opened >= self._wait else BreakerState.OPEN

    @property
    def seconds_left(self) -> float:
        """Until it may be tried; 0 if it may be now."""
        return 0.0 if self._opened is None else max(0.0, self._opened + self._wait - self._clock())

    @property
    def ready(self) -> bool:
        """Whether `allow` would let a call through."""
        state = self.state
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self._trial)

    def allow(self) -> bool:
        """Whether a call may be made now; if so, its outcome must be told by `succeeded`, `failed` or `abandoned`."""
        if not self.ready:
            return False
        self._trial = self._opened is not None
        return True

    def succeeded(self) -> None:
        """A call was answered. What was called before it opened, and is answered while it is open, says nothing."""
        if self.state is BreakerState.OPEN:
            return
        self._failures, self._wait, self._opened, self._trial = 0, 0.0, None, False

    def failed(self) -> bool:
        """A call was not answered; whether that opened it."""
        state = self.state
        if state is BreakerState.OPEN:
            return False
        self._failures += 1
        if state is BreakerState.CLOSED and self._failures < self._threshold:
            return False
        self._wait = min(self._last_wait, 2 * self._wait) if self._wait else self._first_wait
        self._opened, self._trial = self._clock(), False
        return True

    def abandoned(self) -> None:
        """A call was given up before there was an outcome."""
        self._trial = False
