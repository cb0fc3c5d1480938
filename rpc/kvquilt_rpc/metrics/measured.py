"""What is measured for metrics only: sums and histograms by labels, safe from any thread."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from kvquilt_rpc.metrics.types import Metric

Labels = tuple[str, ...]
"""Values of a metric's labels, in its order."""


class Sums:
    """Sums of one metric.

    Args:
        metric: a counter.
        known: labels that are exported from the start, at 0.
    """

    def __init__(self, metric: Metric, known: Iterable[Labels] = ()) -> None:
        self.metric = metric
        self._lock = threading.Lock()
        self._sums: dict[Labels, float] = dict.fromkeys(known, 0.0)

    def add(self, amount: float, *labels: str) -> None:
        """Add to the sum of these labels."""
        with self._lock:
            self._sums[labels] = self._sums.get(labels, 0.0) + amount

    def snapshot(self) -> Mapping[Labels, float]:
        """All sums."""
        with self._lock:
            return dict(self._sums)


@dataclass(slots=True)
class Sizes:
    """Measurements with the same labels.

    Attributes:
        counts: how many are in each bucket, the one without a bound last.
        total: their sum.
    """

    counts: list[int]
    total: float = field(default=0.0)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)


class Histogram:
    """Measurements of one metric, counted by size.

    Args:
        metric: a histogram.
        known: labels that are exported from the start, without any measurement.
    """

    def __init__(self, metric: Metric, known: Iterable[Labels] = ()) -> None:
        self.metric = metric
        self._lock = threading.Lock()
        self._sizes = {labels: self._none() for labels in known}

    def observe(self, value: float, *labels: str) -> None:
        """Count a measurement."""
        bucket = bisect_left(self.metric.buckets, value)
        with self._lock:
            sizes = self._sizes.get(labels)
            if sizes is None:
                sizes = self._sizes[labels] = self._none()
            sizes.counts[bucket] += 1
            sizes.total += value

    @contextmanager
    def timed(self, *labels: str) -> Iterator[None]:
        """Count how long what is within takes, in seconds, also if it fails."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.observe(perf_counter() - begun, *labels)

    def snapshot(self) -> Mapping[Labels, Sizes]:
        """All of them."""
        with self._lock:
            return {labels: Sizes(list(sizes.counts), sizes.total) for labels, sizes in self._sizes.items()}

    def _none(self) -> Sizes:
        return Sizes([0] * (len(self.metric.buckets) + 1))
