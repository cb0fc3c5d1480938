"""Statistics of KL values, which spread over orders of magnitude: everything is done on their logarithms."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

TINY = 1e-7
"""Smaller KL values count as this: what float32 cannot tell from 0."""


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one value; those below `TINY` count as `TINY`."""
    return math.exp(fmean(_logs(values)))


def ratio(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios, with the ends of its 95 % confidence interval (2 standard errors).

    With fewer than two pairs the interval is everything.
    """
    logs = [a - b for a, b in zip(_logs(values), _logs(reference), strict=True)]
    middle = fmean(logs)
    if len(logs) < 2:
        return math.exp(middle), 0.0, math.inf
    error = 2 * stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - error), math.exp(middle + error)


def upper_bound(values: Sequence[float], share: float, confidence: float) -> float:
    """A bound below which this share of further values of the same kind falls, with this confidence.

    One-sided tolerance bound of a log-normal distribution, k by the approximation of Natrella (Experimental Statistics,
    NBS Handbook 91, 1963, section 2-2.3); never less than the largest value seen.

    Raises:
        ValueError: fewer than 4 values.
    """
    count = len(values)
    if count < 4:
        raise ValueError(f"expected at least 4 values for a tolerance bound; got {count}")
    z_share, z_confidence = NormalDist().inv_cdf(share), NormalDist().inv_cdf(confidence)
    a = 1 - z_confidence**2 / (2 * (count - 1))
    b = z_share**2 - z_confidence**2 / count
    k = (z_share + math.sqrt(z_share**2 - a * b)) / a
    logs = _logs(values)
    return max(math.exp(fmean(logs) + k * stdev(logs)), *values)


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log(max(value, TINY)) for value in values]
