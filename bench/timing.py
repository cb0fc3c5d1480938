"""How long a call takes."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def median_seconds(call: Callable[[], Any], runs: int) -> float:
    """The median of several runs after one that does not count."""
    call()
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return median(taken)
