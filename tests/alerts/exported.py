"""What routers and nodes export: metrics by their declarations, and what is on the page of a running one."""

import urllib.request
from collections import defaultdict
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from kvquilt_cache_node.metrics import names as of_nodes
from kvquilt_router.metrics import names as of_routers
from kvquilt_rpc.metrics import names as of_all
from kvquilt_rpc.metrics.types import Kind
from tests.alerts.labelled import Metrics


def declared() -> Metrics:
    """Labels of every sample that kvquilt declares, and of `up`, which Prometheus makes."""
    found = {"up": frozenset[str](), **dict.fromkeys(of_all.PROCESS, frozenset[str]())}
    for metric in (*of_all.METRICS, *of_routers.METRICS, *of_nodes.METRICS):
        labels = frozenset(metric.labels)
        if metric.kind is Kind.HISTOGRAM:
            found[f"{metric.name}_bucket"] = labels | {"le"}
            found[f"{metric.name}_sum"] = found[f"{metric.name}_count"] = labels
        else:
            found[metric.name] = labels
    return found


Values = dict[str, dict[str, set[str]]]
"""Values of labels, by sample and label."""


def scraped(addresses: Iterable[str]) -> Values:
    """What is on the pages of these servers."""
    found: Values = defaultdict(lambda: defaultdict(set))
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found[sample.name]
                for name, value in sample.labels.items():
                    labels[name].add(value)
    return found
