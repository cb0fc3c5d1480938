"""Values as `prometheus-client` takes them."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from kvquilt_rpc.metrics.measured import Labels, Sizes
from kvquilt_rpc.metrics.types import Kind, Metric
from kvquilt_rpc.metrics.values import Sample, Values


def families(values: Values) -> Iterator[Any]:
    """A family of each declared metric, also of those without values."""
    return (_family(metric, samples) for metric, samples in values.items())


def _family(metric: Metric, samples: Mapping[Labels, Sample]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind is Kind.HISTOGRAM:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*(repr(float(bound)) for bound in metric.buckets), "+Inf"]
        for labels, sizes in samples.items():
            if isinstance(sizes, Sizes):
                family.add_metric(labels, list(zip(bounds, accumulate(sizes.counts), strict=True)), sizes.total)
        return family
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family
