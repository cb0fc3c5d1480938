"""Which chunks are used so often now that several nodes should keep them in memory. No I/O."""

from collections.abc import Callable

_MOST = 1 << 16


class HotChunks:
    """Counts uses in a sliding window, estimated from two fixed ones: the running one and the part of the last.

    Args:
        clock: seconds that only grow.
        uses: in a window that make a chunk hot.
        window: seconds.
    """

    def __init__(self, clock: Callable[[], float], *, uses: int, window: float) -> None:
        self._clock = clock
        self._uses = uses
        self._window = window
        self._began = clock()
        self._running: dict[bytes, int] = {}
        self._last: dict[bytes, int] = {}

    def used(self, key: bytes) -> bool:
        """Count a use; whether the chunk is hot.

        Of chunks that are seen for the first time in a window at most 65,536 are counted.
        """
        now = self._clock()
        if now - self._began >= self._window:
            self._last = self._running if now - self._began < 2 * self._window else {}
            self._running = {}
            self._began = now if not self._last else self._began + self._window
        if key in self._running or len(self._running) < _MOST:
            self._running[key] = self._running.get(key, 0) + 1
        rest = 1 - (now - self._began) / self._window
        return self._running.get(key, 0) + rest * self._last.get(key, 0) >= self._uses
