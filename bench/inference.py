"""What can be said of samples: whether two differ, whether they are the same but for a margin, how a series grows."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Sample = NDArray[np.float64]


def rank_sum_p(a: Sample, b: Sample) -> float:
    """Two-sided p-value of the Mann-Whitney U test, by the normal approximation with the correction for ties.

    Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other, 1947.
    """
    n, m = len(a), len(b)
    values, which, counts = np.unique(np.concatenate([a, b]), return_inverse=True, return_counts=True)
    if len(values) == 1:
        return 1.0
    ranks = np.cumsum(counts) - (counts - 1) / 2
    u = ranks[which[:n]].sum() - n * (n + 1) / 2
    total = n + m
    ties = float((counts.astype(float) ** 3 - counts).sum()) / (total * (total - 1))
    deviation = np.sqrt(n * m / 12 * (total + 1 - ties))
    return 2 * (1 - NormalDist().cdf(abs(u - n * m / 2) / deviation))


def kolmogorov_smirnov_p(a: Sample, b: Sample) -> float:
    """Two-sided p-value of the Kolmogorov-Smirnov test of two samples, by Smirnov's limit of 1948."""
    both = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (a, b)]
    distance = np.abs(shares[0] - shares[1]).max()
    scaled = distance * np.sqrt(len(a) * len(b) / (len(a) + len(b)))
    if scaled < 0.2:  # the series does not converge there, and its limit is 1 in 12 digits
        return 1.0
    term = np.arange(1, 101)
    return float(np.clip(2 * np.sum((-1.0) ** (term - 1) * np.exp(-2 * term**2 * scaled**2)), 0, 1))


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval."""

    estimate: float
    low: float
    high: float

    def within(self, margin: float) -> bool:
        """Whether all of it lies between `-margin` and `margin`."""
        return -margin < self.low and self.high < margin


def median_of(values: Sample, alpha: float) -> Interval:
    """The median, with the interval between two of the values that leaves out `alpha` on each side.

    It holds for any distribution (the number of values below the median is binomial, here by its normal limit). Where
    the values are differences of pairs, and the interval is within a margin, the two sides of the pairs are the same
    but for the margin, tested twice one-sided at `alpha` (Schuirmann, A comparison of the two one-sided tests procedure
    and the power approach, 1987).
    """
    ordered, n = np.sort(values), len(values)
    width = NormalDist().inv_cdf(1 - alpha) * np.sqrt(n) / 2
    low, high = max(int(n / 2 - width), 0), min(int(n / 2 + width) + 1, n - 1)
    return Interval(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))


def slope(values: Sample, confidence: float) -> Interval:
    """Growth per step of a series: the Theil-Sen estimator with Sen's interval.

    Sen, Estimates of the regression coefficient based on Kendall's tau, 1968, without its correction for ties.

    Raises:
        ValueError: fewer than 10 values.
    """
    n = len(values)
    if n < 10:
        raise ValueError(f"expected at least 10 values for a slope; got {n}")
    first, second = np.triu_indices(n, 1)
    slopes = np.sort((values[second] - values[first]) / (second - first))
    width = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(int((len(slopes) - width) / 2), 0)
    high = min(int((len(slopes) + width) / 2) + 1, len(slopes) - 1)
    return Interval(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))
