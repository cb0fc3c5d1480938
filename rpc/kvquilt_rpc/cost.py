"""What something costs by its size, as it is measured lately: so long for each, and so long for each token."""

from kvquilt_rpc.pace import KEPT

APART = 0.25
"""Sizes that differ by less of their mean do not tell what each costs from what its tokens cost."""
FAR = 2
"""Of what is so many times larger than all that was measured, no more is known than of that."""
FADED = 0.98
"""What is left of a measurement after each time that it kept something from being measured again."""


class Cost:
    """Seconds by tokens: a line through measurements (least squares), in which newer ones weigh more.

    Where the measurements leave open what each one costs and what its tokens cost, the least that they allow is taken:
    what was only measured small is not thought to be slow when it is large, and the other way round.
    """

    def __init__(self) -> None:
        self._count = self._tokens = self._seconds = self._squares = self._products = 0.0
        self._largest = 0

    def measured(self, seconds: float, tokens: int) -> None:
        """So long it took for so many tokens; nothing is learned of no tokens."""
        if tokens <= 0:
            return
        self._count = KEPT * self._count + 1
        self._tokens = KEPT * self._tokens + tokens
        self._seconds = KEPT * self._seconds + seconds
        self._squares = KEPT * self._squares + tokens * tokens
        self._products = KEPT * self._products + tokens * seconds
        self._largest = max(tokens, round(KEPT * self._largest))

    def fade(self) -> None:
        """The measurements kept something from being measured again: take it for a little faster than they say."""
        self._seconds *= FADED
        self._products *= FADED

    def seconds(self, tokens: int) -> float | None:
        """How long it takes for so many tokens, in seconds; `None` before the first measurement."""
        if tokens <= 0:
            return 0.0
        if not self._count:
            return None
        mean, each = self._tokens / self._count, self._seconds / self._count
        spread = self._squares / self._count - mean * mean
        if spread > (APART * mean) ** 2:
            slope = (self._products / self._count - mean * each) / spread
        else:
            slope = 0.0 if tokens > mean else each / mean
        slope = min(max(slope, 0.0), each / mean)
        return each + slope * (min(tokens, FAR * self._largest) - mean)
