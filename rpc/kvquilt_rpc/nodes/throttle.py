"""What a caller refuses itself, because a node refuses it: then refusing does not take the place of the work. No I/O.

"Client-side throttling" of "Handling overload" in Beyer et al., "Site reliability engineering", 2016. Time and chance
are passed in.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kvquilt_codec.errors import CapacityError, DeadlineError, KvquiltError, UnavailableError
from kvquilt_rpc.admission import OVERLOADED

_PARTS = 8
"""Of the window: the oldest is forgotten as a whole."""
_PROBE = 0.25
"""Seconds since the last call after which the next one is made in any case."""


class SparedError(CapacityError):
    """A call was not made: the node would most likely refuse it. Nobody was asked, so asking another is no retry."""


@dataclass(slots=True)
class _Part:
    begins: float
    taken: int = 0
    refused: int = 0
    others: int = 0


class Throttle:
    """Of one node and one kind of call.

    Over a window it counts calls that the node took on, that it refused, that it did not answer in time, and that were
    not made. A call is not made with the probability max(0, (calls - factor * taken) / (calls + 1)), so that `factor`
    times as many are made as are taken. Beside the source's rule two more hold. Where the node refused nothing within
    the window every call is made: at most a window after it takes all again it gets all again. And when none was made
    for a quarter of a second the next one is, however many the node refuses.

    A call counts when it is known what became of it: those that run say nothing yet. A node that cannot be reached is
    for the breaker.

    Args:
        name: of the node, in messages.
        clock: seconds that only grow.
        factor: calls that are made for each that is taken, above 1; infinite: all are.
        window: seconds.
        spared: told of each call that is not made.
    """

    def __init__(
        self, name: str, clock: Callable[[], float], *, factor: float, window: float, spared: Callable[[], None]
    ) -> None:
        self._name = name
        self._clock = clock
        self._factor = factor
        self._window = window
        self._told = spared
        self._parts: deque[_Part] = deque()
        self._made = clock()

    @property
    def probability(self) -> float:
        """That a call is not made now."""
        horizon = self._clock() - self._window
        while self._parts and self._parts[0].begins <= horizon:
            self._parts.popleft()
        refused = sum(part.refused for part in self._parts)
        if not refused:
            return 0.0
        taken = sum(part.taken for part in self._parts)
        calls = taken + refused + sum(part.others for part in self._parts)
        return max(0.0, (calls - self._factor * taken) / (calls + 1))

    @contextmanager
    def call(self, kind: str, chance: float) -> Iterator[None]:
        """A call is made within, or not.

        Args:
            kind: of the call, in messages.
            chance: a uniform number in 0..1.

        Raises:
            SparedError: it is not made.
        """
        now = self._clock()
        if chance < self.probability and now - self._made < _PROBE:
            self._part().others += 1
            self._told()
            raise SparedError(
                f"expected node {self._name} to take a {kind}; it has too much to do and refuses most of them, "
                "so this one was not sent: do without, or come again",
                reason=OVERLOADED,
                retry_after=_PROBE,
            )
        self._made = now
        try:
            yield
        except KvquiltError as error:
            if error.reason == OVERLOADED:
                self._part().refused += 1
            elif isinstance(error, DeadlineError):
                self._part().others += 1
            elif not isinstance(error, UnavailableError):
                self._part().taken += 1
            raise
        self._part().taken += 1

    def _part(self) -> _Part:
        """What is counted now."""
        now = self._clock()
        if not self._parts or now >= self._parts[-1].begins + self._window / _PARTS:
            self._parts.append(_Part(now))
        return self._parts[-1]
