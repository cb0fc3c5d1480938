"""Time as times to live go by it: it never goes back, and stands still for no clock that is set back."""

from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Seconds."""


@dataclass(slots=True)
class Age:
    """Seconds that have passed, since the epoch at first.

    As much passes as the wall clock says, or the monotonic one, if that says more: so a wall clock that is set back, or
    a machine that slept, lets nothing live longer; a wall clock that is set forward ends lives early.

    Args:
        wall: seconds since the epoch.
        monotonic: seconds since any moment.
        before: what `state` gave when the process before this one ended. Of what passed between them only the wall
            clock tells.
    """

    wall: Clock
    monotonic: Clock
    before: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._wall, self._monotonic = self.wall(), self.monotonic()
        self._age = self._wall if self.before is None else self.before[0] + max(0.0, self._wall - self.before[1])

    _age: float = 0.0
    _wall: float = 0.0
    _monotonic: float = 0.0

    def __call__(self) -> float:
        """The age now."""
        wall, monotonic = self.wall(), self.monotonic()
        self._age += max(0.0, wall - self._wall, monotonic - self._monotonic)
        self._wall, self._monotonic = wall, monotonic
        return self._age

    @property
    def state(self) -> tuple[float, float]:
        """Age and wall clock, as of the last call."""
        return self._age, self._wall
