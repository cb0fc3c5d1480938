"""Audits of what was served, and the withdrawal of operating points that they disprove. Pure computation."""

import math
from dataclasses import dataclass, field

from kvquilt_codec.gate import Gate, GatePoint

SIGNIFICANCE = 0.01
MIN_EXCEEDED = 2
"""One audit beyond the bound is within what the bound promises."""

Key = tuple[str, float, str, str]


@dataclass(slots=True)
class Tally:
    """Audits of one operating point: how many, how many beyond its bound, and the sum of their divergences."""

    audits: int = 0
    exceeded: int = 0
    kl_sum: float = 0.0


@dataclass(slots=True)
class Audits:
    """What audits found, by operating point; kept in memory.

    Attributes:
        tallies: by the point's key.
        withdrawn: keys of the points that are not used any more.
    """

    tallies: dict[Key, Tally] = field(default_factory=dict)
    withdrawn: set[Key] = field(default_factory=set)

    def record(self, gate: Gate, point: GatePoint, kl: float) -> bool:
        """Count an audit of a blend at `point`; whether the point is withdrawn by it.

        It is when so many audits exceed the bound as would happen with a probability below `SIGNIFICANCE` if the gate's
        promise held: that a share `gate.share` of cases stays below (one-sided binomial test).
        """
        tally = self.tallies.setdefault(point.key, Tally())
        tally.audits += 1
        tally.kl_sum += kl
        tally.exceeded += kl > point.kl_upper
        if point.key in self.withdrawn or tally.exceeded < MIN_EXCEEDED:
            return False
        if binomial_tail(tally.exceeded, tally.audits, 1 - gate.share) >= SIGNIFICANCE:
            return False
        self.withdrawn.add(point.key)
        return True


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Probability of at least so many successes."""
    below = (math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes))
    return max(0.0, 1.0 - math.fsum(below))
