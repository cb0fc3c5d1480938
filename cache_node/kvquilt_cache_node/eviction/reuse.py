"""When objects of one kind are used again: learned from what was seen, as an index by age."""

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BINS = 56
_BINS_A_DOUBLING = 4
_KERNEL = (0.25, 0.5, 1.0, 0.5, 0.25)
_FADING = 0.995
_PRIOR = 20.0
"""Weight of what is known of all kinds together, in units of the finest bin's width."""


class AgeBins:
    """Ages on a scale that doubles every 4 bins, from 1/256 of the capacity to 64 times the capacity.

    Age is counted in bytes: those of all objects that came in or were used since.
    """

    def __init__(self, capacity: int) -> None:
        self.unit = capacity / 256
        self._edges = [self.unit * (2 ** (place / _BINS_A_DOUBLING) - 1) for place in range(_BINS + 1)]
        self.starts: Floats = np.array(self._edges[:-1])
        self.widths: Floats = np.diff(self._edges)

    def bin_of(self, age: float) -> int:
        """Bin of an age; the last one has all that are older."""
        return min(bisect_right(self._edges, age) - 1, _BINS - 1)

    def watched(self, ages: Floats) -> Floats:
        """How long objects that were watched from age 0 to these ages were in each bin, summed over them."""
        places = np.minimum(np.searchsorted(self._edges, ages, side="right") - 1, _BINS - 1)
        ended = np.bincount(places, minlength=_BINS)
        inside = np.bincount(places, np.minimum(ages - self.starts[places], self.widths[places]), _BINS)
        later = ended[::-1].cumsum()[::-1] - ended
        return inside + later * self.widths


class Reuse:
    """Uses of objects of one kind, and how long such objects were watched, by age; older observations fade.

    Args:
        bins: of age.
        guess: how many times likelier than others they are taken to be used, until something was learned.
    """

    def __init__(self, bins: AgeBins, guess: float) -> None:
        self._bins = bins
        self._ended: list[float] = []
        self.uses: Floats = np.zeros(_BINS)
        self.watched: Floats = np.zeros(_BINS)
        self.index: list[float] = (guess / (bins.starts + bins.unit)).tolist()

    def used(self, age: float) -> None:
        """An object was used again at this age."""
        self.uses[self._bins.bin_of(age)] += 1
        self._ended.append(age)

    def lost(self, age: float) -> None:
        """An object is watched no more, and was not used again up to this age."""
        self._ended.append(age)

    def fade(self) -> None:
        """Take in what ended, and let all that was seen count a little less."""
        self.watched += self._bins.watched(np.array(self._ended))
        self._ended.clear()
        self.uses *= _FADING
        self.watched *= _FADING

    def learn(self, living: Floats, all_uses: Floats, all_watched: Floats) -> None:
        """Compute `index`: by age bin, the most uses per byte that passes, which keeping an object to some age gives.

        The rate at which objects of an age are used is uses / watched, smoothed over neighbouring ages, with the rate
        of all kinds as its prior. The index of an age is Gittins' (1979): the maximum over all later ages of the
        probability of a use up to there, divided by the expected time up to the use or to there.

        Args:
            living: ages of the objects that are watched now.
            all_uses: of all kinds, by bin, smoothed; the prior.
            all_watched: the same.
        """
        uses, watched = smoothed(self.uses), smoothed(self.watched + self._bins.watched(living))
        unit = self._bins.unit
        prior = (all_uses + 1e-9) / (all_watched + unit)
        rate = (uses + _PRIOR * unit * prior) / (watched + _PRIOR * unit)
        expected = rate * self._bins.widths
        # Of those that reach the beginning of bin b, the share that is not used before the end of bin x is
        # exp(-(passed[x + 1] - passed[b])); the time that passes is the integral of that.
        passed = np.concatenate(([0.0], np.cumsum(expected)))
        alive = np.exp(-np.minimum(passed[None, :-1] - passed[:-1, None], 700.0))
        spent = alive * -np.expm1(-expected) / rate
        reached = np.triu(np.ones((_BINS, _BINS)))
        times = np.cumsum(spent * reached, axis=1)
        chances = -np.expm1(-(passed[None, 1:] - passed[:-1, None])) * reached
        self.index = (chances / np.where(reached > 0, times, math.inf)).max(axis=1).tolist()

    def totals(self, living: Floats) -> tuple[Floats, Floats]:
        """Uses and time watched by bin, smoothed, for the prior of all kinds."""
        return smoothed(self.uses), smoothed(self.watched + self._bins.watched(living))


def smoothed(values: Floats) -> Floats:
    """Each bin with a part of its neighbours."""
    return np.convolve(values, _KERNEL, mode="same")
