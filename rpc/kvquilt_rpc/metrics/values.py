"""What one scrape exports: values of declared metrics."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping

from kvquilt_rpc.metrics.measured import Histogram, Labels, Sizes, Sums
from kvquilt_rpc.metrics.types import OTHER, Metric

Sample = float | Sizes


class Values:
    """Collects values. Metrics that were not declared are refused: a mistake in our own code.

    Args:
        declared: all that may come.
    """

    def __init__(self, declared: Iterable[Metric]) -> None:
        self._samples: dict[Metric, dict[Labels, Sample]] = {metric: {} for metric in declared}

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """A value of a counter or a gauge.

        Raises:
            KeyError: it was not declared.
            ValueError: other labels than it was declared with.
        """
        self._put(metric, labels, value)

    def each(self, metric: Metric, values: Mapping[str, float]) -> None:
        """Values of a metric by its only label."""
        for label, value in values.items():
            self.set(metric, value, label)

    def chosen(self, metric: Metric, states: Iterable[str], state: str, *labels: str) -> None:
        """1 for the state that something is in, 0 for the others; the state is the metric's last label."""
        for one in states:
            self.set(metric, float(one == state), *labels, one)

    def measured(self, *measured: Histogram | Sums) -> None:
        """What was measured."""
        for one in measured:
            for labels, value in one.snapshot().items():
                self._put(one.metric, labels, value)

    def items(self) -> Iterator[tuple[Metric, Mapping[Labels, Sample]]]:
        """All declared metrics with what came, in the order of their declaration."""
        return iter(self._samples.items())

    def _put(self, metric: Metric, labels: Labels, value: Sample) -> None:
        if len(labels) != len(metric.labels):
            raise ValueError(f"expected the labels {metric.labels} of {metric.name}; got {len(labels)}")
        self._samples[metric][labels] = value


Collect = Callable[[Values], Awaitable[None]]
"""Sets the values of a scrape. Runs in the server's event loop: bounded in time, and never in the way of a call."""


class Named:
    """Which namespaces have series of their own: those that are named, and the first others, up to a limit.

    Whoever has one keeps it: series that come and go are worth little, and cost whoever stores them.

    Args:
        limit: most of them, the named ones included.
        names: that have one before others, as far as the limit goes.
    """

    def __init__(self, limit: int, names: Collection[str] = ()) -> None:
        self._limit = limit
        self._names = set(sorted(names)[:limit])

    def of(self, namespace: str) -> str:
        """The label of a namespace: its name, or `OTHER`."""
        if namespace not in self._names:
            if len(self._names) >= self._limit:
                return OTHER
            self._names.add(namespace)
        return namespace
