"""The highest of some scores, the same on every machine."""

import numpy as np
from numpy.typing import NDArray

from kvquilt_router.types import Indices


def highest(scores: NDArray[np.float32], positions: Indices, count: int) -> Indices:
    """Those `count` of `positions` whose `scores` are highest, ascending; of equal ones the earlier.

    Args:
        scores: one per position, in their order.
        positions: ascending.
        count: at most so many.
    """
    return np.sort(positions[np.argsort(-scores, kind="stable")[:count]])
