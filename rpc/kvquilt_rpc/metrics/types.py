"""The vocabulary of metrics: what a server declares, and what it is asked for. Read this file first.

A component declares all its metrics in one module (`names`), reads most of them from what is counted anyway, and
measures in a `Histogram` only what is not. Nothing is exported that is not declared; `docs/metrics.md` has it all.
Names follow the conventions of Prometheus: base units, `_total` at the end of what only grows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

OTHER = "other"
"""Namespace of the series that all namespaces share that have none of their own."""


class Kind(Enum):
    """What the values of a metric are: a sum that only grows, a value, or measurements counted by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: as it is exported, with `_total` for a counter.
        kind: see there.
        help: what it is, in a sentence; the unit is in the name.
        labels: names of its labels. Values come from fixed lists or the settings, or are namespaces (`tenant`), of
            which `MetricsSettings.metrics_namespaces` have series of their own.
        buckets: upper bounds of a histogram's buckets, ascending, without infinity.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def counter(name: str, text: str, *labels: str) -> Metric:
    """Declare a sum that only grows."""
    return Metric(name, Kind.COUNTER, text, labels)


def gauge(name: str, text: str, *labels: str) -> Metric:
    """Declare a value that goes up and down."""
    return Metric(name, Kind.GAUGE, text, labels)


SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets of durations."""


def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Metric:
    """Declare measurements that are counted by size."""
    return Metric(name, Kind.HISTOGRAM, text, labels, buckets)


def declared(module: Mapping[str, object]) -> tuple[Metric, ...]:
    """The metrics among the names of a module, in its order."""
    return tuple(value for value in module.values() if isinstance(value, Metric))


class Lane(Protocol):
    """Something that a number of calls share: a model's engine, a store."""

    @property
    def name(self) -> str:
        """Of the lane."""

    @property
    def at_once(self) -> int:
        """Most that run."""

    @property
    def running(self) -> int:
        """That run now."""

    @property
    def waiting(self) -> int:
        """That wait for their turn now."""


class MetricsSettings(BaseModel):
    """Settings of a server's metrics, which `NodeSettings` and `RouterSettings` have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port where metrics are served over HTTP, in clear; unset: none."
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics are served on.")
    metrics_namespaces: int = Field(
        50, ge=0, le=10_000, description="Most namespaces with series of their own; the others share one, `other`."
    )
