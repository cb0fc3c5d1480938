"""Metrics as whoever scrapes them sees them: over HTTP, parsed by the client library of Prometheus."""

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import HOST, free_ports

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scrape:
    """One page: values by name and labels, and the types of all metrics that it declares."""

    values: dict[tuple[str, Labels], float]
    types: dict[str, str]

    def value(self, name: str, **labels: str) -> float:
        """Of the series with these labels; it must be there."""
        return self.values[name, tuple(sorted(labels.items()))]

    def total(self, name: str, **labels: str) -> float:
        """Of all series of a name that have these labels; one must be there."""
        found = [
            value for (known, own), value in self.values.items() if known == name and set(labels.items()) <= set(own)
        ]
        assert found, f"no series of {name} with {labels}"
        return sum(found)

    def labels(self, name: str, label: str) -> set[str]:
        """Values of a label of a metric."""
        return {dict(own)[label] for known, own in self.values if known == name}

    @property
    def exported(self) -> set[str]:
        """Names of the metrics that have a value, those of histograms without what is added to them."""
        found = {name for name, _ in self.values}
        parts = {f"{name}{part}": name for name in self.types for part in ("_bucket", "_sum", "_count")}
        return {parts.get(name, name) if self.types.get(parts.get(name, "")) == "histogram" else name for name in found}


def scraped(text: str) -> Scrape:
    """A page's text."""
    values: dict[tuple[str, Labels], float] = {}
    types: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        types[family.name + ("_total" if family.type == "counter" else "")] = family.type
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in values, "a series comes once"
            values[key] = sample.value
    return Scrape(values, types)


def scrape(port: int) -> Scrape:
    """The page of a server on this machine."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as page:
        return scraped(page.read().decode())


def metrics_port() -> int:
    """A port for metrics that is free now."""
    (port,) = free_ports(1)
    return port
