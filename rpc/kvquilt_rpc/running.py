"""How many calls a server is busy with, and since when it is with none."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


class RunningCalls:
    """Counts calls while they run. For one event loop.

    Args:
        left_out: methods (`/SERVICE/NAME`) that do not count: those by which operators look at the server.
        clock: seconds that only grow.
    """

    def __init__(self, left_out: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._left_out = frozenset(left_out)
        self._clock = clock
        self._ended = clock()
        self.count = 0

    @property
    def idle_seconds(self) -> float:
        """Since the last call ended, or since the start; 0 while one runs."""
        return 0.0 if self.count else self._clock() - self._ended

    @contextmanager
    def call(self, method: str) -> Iterator[None]:
        """A call runs within this context."""
        if method in self._left_out:
            yield
            return
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            self._ended = self._clock()
