"""Finds the step whose KL meets a target, in few measurements."""

import math
from collections.abc import Callable

from kvquilt_codec.errors import BadRequestError

MEASUREMENTS = 8
CLOSE_ENOUGH = 0.85
"""A step is good enough from this share of the target upwards (a tenth of KL is about a fifteenth of a bit)."""
_AIM = 0.93
_FARTHEST = 16.0
_LEAST = 1e-12


def find_step(measure: Callable[[float], float], start: float, target: float) -> float:
    """The largest step found whose KL is at most `target`.

    KL grows with the square of a fine step: each guess follows that law, and once a step on either side of the target
    is known, the line between the two (in logarithms), held inside them.

    Raises:
        BadRequestError: no step meets the target: the element type's own rounding may be coarser.
    """
    finer: tuple[float, float] | None = None
    coarser: tuple[float, float] | None = None
    step, kl = start, math.inf
    for _ in range(MEASUREMENTS):
        kl = max(measure(step), _LEAST)
        if kl <= target:
            finer = (step, kl)
            if kl >= CLOSE_ENOUGH * target:
                break
        else:
            coarser = (step, kl)
        step = _next(finer, coarser, _AIM * target)
    if finer is None:
        raise BadRequestError(f"expected a KL target that this model can meet; got {target}, measured {kl}: raise it")
    return finer[0]


def _next(finer: tuple[float, float] | None, coarser: tuple[float, float] | None, aim: float) -> float:
    if finer is None or coarser is None:
        step, kl = next(pair for pair in (finer, coarser) if pair is not None)
        return step * min(max(math.sqrt(aim / kl), 1 / _FARTHEST), _FARTHEST)
    if coarser[1] <= finer[1] or coarser[0] <= finer[0]:
        return math.sqrt(finer[0] * coarser[0])
    share = math.log(aim / finer[1]) / math.log(coarser[1] / finer[1])
    return float(finer[0] * (coarser[0] / finer[0]) ** min(max(share, 0.1), 0.9))
