"""Audits of what was served, and the withdrawal of operating points that they disprove. Pure computation.

What is known is this router's and, once they were heard of, other routers' too: see `kvquilt_codec.gate.audits`.
"""

import math
import time
from collections.abc import Callable, Set

import msgspec

from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate.audits import GateAudits, Key, PointAudits, Tally, new_replica
from kvquilt_codec.gate.file import identity

SIGNIFICANCE = 0.01
MIN_EXCEEDED = 2
"""One audit beyond the bound is within what the bound promises."""
_NEGLIGIBLE = 1e-17


class Audits:
    """What audits found of one gate, by operating point.

    Args:
        gate: what was measured.
        clock: seconds since the epoch.

    Attributes:
        state: what is known, to be shared with other routers.
        withdrawn: keys of the points that are not used any more.
        heard: whether it is known what others withdrew. Until then nothing rests on a point: it may be one of theirs.
    """

    def __init__(self, gate: Gate, clock: Callable[[], float] = time.time) -> None:
        self._gate = gate
        self._clock = clock
        self._replica = new_replica(clock())
        self._bounds = {point.key: point.kl_upper for point in gate.points}
        self.state = GateAudits(identity(gate), gate.model_fingerprint, gate.profile_digest)
        self.withdrawn: Set[Key] = frozenset()
        self.heard = False

    @property
    def untrusted(self) -> Set[Key]:
        """Keys of the points that are not to be used now."""
        return self.withdrawn if self.heard else self._bounds.keys()

    def of(self, key: Key) -> PointAudits:
        """What is known of a point."""
        return self.state.by_key().get(key) or PointAudits(*key)

    def record(self, point: GatePoint, kl: float) -> bool:
        """Count an audit of a blend at `point`, in nats; whether the point is withdrawn by it.

        It is when so many audits exceed the bound as would happen with a probability below `SIGNIFICANCE` if the gate's
        promise held: that a share `gate.share` of cases stays below (one-sided binomial test).
        """
        known = self.of(point.key)
        if self._replica <= known.folded_until:
            self._replica = new_replica(self._clock(), known.folded_until)
        own = known.replicas.get(self._replica, Tally()) + Tally(1, int(kl > point.kl_upper))
        return point.key in self._enter(msgspec.structs.replace(known, replicas={**known.replicas, self._replica: own}))

    def hear(self, others: GateAudits) -> tuple[list[Key], list[Key]]:
        """Learn what others know of this gate.

        Returns:
            The points that are withdrawn by all audits together, and those that others had withdrawn.
        """
        before = self.withdrawn
        merged = self.state.merged(others.of(self._gate))
        told = {point.key for point in merged.points if point.withdrawn} - before
        self.heard = True
        found = self._enter(*merged.points)
        return found, sorted(told)

    def lift(self, key: Key) -> None:
        """Use a withdrawn point again; what audits found of it so far counts no more.

        Raises:
            NotFoundError: the gate has no such point.
            BadRequestError: it is not withdrawn.
        """
        if key not in self._bounds:
            raise NotFoundError(f"expected a point of the gate; it has none of {key}: see `kvquilt gate show`")
        if key not in self.withdrawn:
            raise BadRequestError(f"expected a withdrawn point; {key} is in force: see `kvquilt gate show`")
        self._enter(PointAudits(*key, lifts=self.of(key).lifts + 1))

    def _enter(self, *points: PointAudits) -> list[Key]:
        """Let these be what is known of their points; those that are withdrawn by it."""
        known = self.state.by_key()
        found: list[Key] = []
        for point in points:
            disproved = not point.withdrawn and self._disproved(point.total)
            known[point.key] = msgspec.structs.replace(point, withdrawn=True) if disproved else point
            found += [point.key] if disproved else []
        self.state = self.state.with_points(known)
        self.withdrawn = frozenset(point.key for point in self.state.points if point.withdrawn)
        return found

    def _disproved(self, tally: Tally) -> bool:
        if tally.exceeded < MIN_EXCEEDED:
            return False
        return binomial_tail(tally.exceeded, tally.audits, 1 - self._gate.share) < SIGNIFICANCE


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Probability of at least so many successes. Takes steps in the order of the square root of `trials`."""
    if successes <= 0:
        return 1.0
    if successes > trials or probability <= 0:
        return 0.0
    if probability >= 1:
        return 1.0
    if successes > trials * probability:
        return _outwards(successes, 1, trials, probability)
    return max(0.0, 1.0 - _outwards(successes - 1, -1, trials, probability))


def _outwards(first: int, step: int, trials: int, probability: float) -> float:
    """Sum of the binomial probabilities from `first` on, away from the mean, where they only fall."""
    log_first = (
        math.lgamma(trials + 1)
        - math.lgamma(first + 1)
        - math.lgamma(trials - first + 1)
        + first * math.log(probability)
        + (trials - first) * math.log1p(-probability)
    )
    odds = probability / (1 - probability)
    term = total = 1.0
    at = first
    while 0 <= at + step <= trials and term > _NEGLIGIBLE * total:
        term *= (trials - at) / (at + 1) * odds if step > 0 else at / (trials - at + 1) / odds
        total += term
        at += step
    return min(1.0, math.exp(log_first) * total)
