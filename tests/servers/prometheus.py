"""Prometheus of the operating system, which scrapes what it is told and evaluates rules."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.servers.process import HOST, Process, free_ports, running

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
INTERVAL = "1s"
"""Between two scrapes and two evaluations."""

Labels = dict[str, str]


@dataclass(frozen=True)
class PrometheusServer:
    """A running Prometheus.

    Attributes:
        port: of its HTTP API.
        process: of the server.
        jobs: names of its jobs.
    """

    port: int
    process: Process
    jobs: Sequence[str]

    def scrape(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Scrape these addresses from now on, by job; jobs that are not named have none."""
        for job in self.jobs:
            _write_targets(self.process.folder, job, targets.get(job, ()))

    def firing(self) -> list[tuple[Labels, Labels]]:
        """Labels and annotations of the alerts that are firing."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return [(found["labels"], found["annotations"]) for found in alerts if found["state"] == "firing"]

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """Series and values of an expression that is a vector, now."""
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        return [(found["metric"], float(found["value"][1])) for found in answer["result"]]

    def problems(self) -> list[str]:
        """What Prometheus says of rules that it could not evaluate."""
        groups = self._get("/api/v1/rules")["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)["data"]


def _write_targets(folder: Path, job: str, addresses: Sequence[str]) -> None:
    text = json.dumps([{"targets": list(addresses)}])
    written = folder / f"{job}.part"
    written.write_text(text)
    written.replace(folder / f"{job}.json")


@contextmanager
def prometheus(folder: Path, rules: Path, *jobs: str) -> Iterator[PrometheusServer]:
    """A Prometheus with these rules that scrapes nothing yet."""
    if PROMETHEUS is None:
        raise RuntimeError("expected prometheus; not found: apt-get install prometheus")
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "file_sd_configs": [{"files": [f"{job}.json"], "refresh_interval": "1s"}]} for job in jobs
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for job in jobs:
        _write_targets(folder, job, ())
    arguments = [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    arguments += [f"--web.listen-address={HOST}:{port}", "--log.level=warn"]
    with running(Process(arguments, folder, lambda: _ready(port))) as process:
        yield PrometheusServer(port, process, jobs)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/-/ready", timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    if PROMTOOL is None:
        raise RuntimeError("expected promtool; not found: apt-get install prometheus")
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)
