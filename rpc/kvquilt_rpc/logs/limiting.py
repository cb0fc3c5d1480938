"""How many lines are written: so many a second, and a tenth of it from one place. Pure computation."""

from collections.abc import Iterator
from dataclasses import dataclass

SHARE = 10
"""One place gets this part of all lines a second, at least one line."""
BURST_SECONDS = 5.0
"""Of so many seconds a place's lines may come at once."""
MAX_PLACES = 4096
"""Places that are remembered: more than there are calls of loggers."""

Place = tuple[str, int, int]
"""Name of the logger, line in the source, level."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float

    def taken(self, rate: float, most: float, now: float) -> bool:
        self.left = min(most, self.left + (now - self.at) * rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class _Known:
    bucket: _Bucket
    template: str
    dropped: int = 0


class LineLimit:
    """Decides which lines are written, and counts the others.

    Lines from `errors` on have a bound of their own: what floods the log must not keep them out.

    Args:
        lines_per_second: of each of the two.
        errors: a level.
    """

    def __init__(self, lines_per_second: int, errors: int) -> None:
        self._rate = float(lines_per_second)
        self._errors = errors
        self._overall = {urgent: _Bucket(self._rate, 0.0) for urgent in (False, True)}
        self._places: dict[Place, _Known] = {}

    def admit(self, place: Place, template: str, now: float) -> int | None:
        """Whether a line is written: how many like it were dropped before it; `None`: it is dropped too.

        Args:
            place: where it comes from.
            template: its message before anything was put into it.
            now: seconds that only grow.
        """
        rate = max(1.0, self._rate / SHARE)
        known = self._places.get(place)
        if known is None:
            if len(self._places) >= MAX_PLACES:
                del self._places[next(iter(self._places))]
            known = self._places[place] = _Known(_Bucket(rate * BURST_SECONDS, now), template)
        overall = self._overall[place[2] >= self._errors]
        if known.bucket.taken(rate, rate * BURST_SECONDS, now) and overall.taken(self._rate, self._rate, now):
            dropped, known.dropped = known.dropped, 0
            return dropped
        known.dropped += 1
        return None

    def overdue(self, now: float, after: float = BURST_SECONDS) -> Iterator[tuple[Place, str, int]]:
        """Places whose lines were dropped and that have been silent for a while: template, and how many they were."""
        for place, known in self._places.items():
            if known.dropped and now - known.bucket.at >= after:
                dropped, known.dropped = known.dropped, 0
                yield place, known.template, dropped
