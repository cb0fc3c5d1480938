"""Prometheus with the chart's rules, over real kvquilt processes: what fires, and what stops to.

Times of the rules are divided, and nothing else (`rules.hurried`): a window of five minutes becomes one of ten seconds,
the longest ones half a minute, and what has to hold for a while has to hold for two seconds.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from drills.place import Place
from tests import servers
from tests.alerts.rules import ALERTS, hurried
from tests.servers.prometheus import PrometheusServer, prometheus

SHORTEST, FACTOR = 10.0, 2880.0
"""Of windows, in seconds; a day is half a minute."""
PATIENCE = 120.0
"""Seconds until an alert fires or is over; mostly it takes a few."""

ROUTERS, NODES = "kvquilt-router", "kvquilt-node"


class NoAlertError(Exception):
    """What fired instead of what was expected."""


@dataclass
class Watch:
    """Processes in a place, and the Prometheus that scrapes them.

    Attributes:
        fired: names of alerts that were waited for and came.
    """

    place: Place
    prometheus: PrometheusServer
    fired: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _targets: dict[str, list[str]] = field(default_factory=lambda: {ROUTERS: [], NODES: []})

    def node(self, *settings: str) -> "Watched":
        """A running node that is scraped."""
        with self._lock:  # a place numbers its nodes as they are there
            (port,) = servers.free_ports(1)
            process = self.place.node(f"node.metrics_port={port}", "node.sweep_seconds=1", *settings)
            return self._scraped(NODES, Watched(process, self.place.targets[-1], f"{servers.HOST}:{port}"))

    def router(self, model: Path, *settings: str) -> "Watched":
        """A running router of all nodes so far that is scraped."""
        (port,) = servers.free_ports(1)
        process, target = self.place.router(model, f"router.metrics_port={port}", *settings)
        return self._scraped(ROUTERS, Watched(process, target, f"{servers.HOST}:{port}"))

    def _scraped(self, job: str, watched: "Watched") -> "Watched":
        """Return when its counters are known: what they counted before that is no increase."""
        self._targets[job].append(watched.metrics)
        self.prometheus.scrape(self._targets)
        give_up = time.monotonic() + PATIENCE
        while not self.prometheus.query(f'count_over_time(up{{instance="{watched.metrics}"}}[1m]) > 1'):
            if time.monotonic() > give_up:
                raise NoAlertError(f"expected {watched.metrics} to be scraped; got {self.prometheus.query('up')}")
            time.sleep(0.2)
        return watched

    def firing(self) -> set[tuple[str, str]]:
        """Names and instances of the alerts that fire; without an instance, those of sums."""
        return {(labels["alertname"], labels.get("instance", "")) for labels, _ in self.prometheus.firing()}

    def fires(self, name: str, **labels: str) -> Mapping[str, str]:
        """Wait for an alert with these labels; returns its annotations.

        Raises:
            NoAlertError: it does not come.
        """
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            for found, said in self.prometheus.firing():
                if found["alertname"] == name and labels.items() <= found.items():
                    self.fired.add(name)
                    return said
            time.sleep(0.2)
        raise NoAlertError(f"expected {name} {labels}; got {self.firing()}, problems {self.prometheus.problems()}")

    def ends(self, name: str, **labels: str) -> None:
        """Wait until no alert with these labels fires.

        Raises:
            NoAlertError: it goes on.
        """
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            firing = self.prometheus.firing()
            if not any(found["alertname"] == name and labels.items() <= found.items() for found, _ in firing):
                return
            time.sleep(0.2)
        raise NoAlertError(f"expected {name} {labels} to end; it goes on")


@dataclass(frozen=True)
class Watched:
    """A process of kvquilt: its address, and that of its metrics."""

    process: servers.Process
    target: str
    metrics: str

    def started_with(self, **settings: str) -> None:
        """Start again with other values of settings that it was started with."""
        self.process.kill()
        arguments = [
            next((f"{name}={value}" for name, value in settings.items() if word.startswith(f"{name}=")), word)
            for word in self.process.arguments
        ]
        changed = replace(self.process, arguments=arguments)
        changed.start()
        self.process.__dict__.update(changed.__dict__)


@contextmanager
def watch(folder: Path) -> Iterator[Watch]:
    """A place without processes, and Prometheus over it."""
    rules = folder / "alerts.yaml"
    rules.write_text(hurried(ALERTS.read_text(), shortest=SHORTEST, factor=FACTOR))
    with ExitStack() as stack:
        place = Place(folder, stack)
        started = stack.enter_context(prometheus(folder / "prometheus", rules, ROUTERS, NODES))
        yield Watch(place, started)
