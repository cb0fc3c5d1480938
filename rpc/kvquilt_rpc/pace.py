"""How fast something goes, as it is measured lately."""

KEPT = 0.8
"""What a measurement weighs after each further one."""


class Pace:
    """How fast the engine computes: a running mean, in which newer and larger measurements weigh more.

    A layer of few tokens costs more for each of them: after small blends only, a large one is thought to be slower.

    Args:
        kept: what a measurement weighs after each further one.
    """

    def __init__(self, kept: float = KEPT) -> None:
        self._kept = kept
        self._seconds = self._computed = 0.0

    @property
    def seconds(self) -> float | None:
        """Per token and layer; `None` before the first measurement."""
        return self._seconds / self._computed if self._computed else None

    def measured(self, seconds: float, tokens: int, layers: int) -> None:
        """So long it took to compute so many tokens in so many layers; nothing is learned of no tokens."""
        if tokens * layers:
            self._seconds = self._kept * self._seconds + seconds
            self._computed = self._kept * self._computed + tokens * layers
