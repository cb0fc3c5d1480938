"""The rendered manifests of the trial, run: node, router and test pod as processes, beside a real Valkey."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvquilt import Client
from tests.helm.chart import host, of_size
from tests.helm.placed import Placed, Started
from tests.helm.releases import valkey_of, with_demo_model
from tests.helm.running import SERVING, health, passed_on, started
from tests.servers import HOST, free_ports
from tests.stack import eventually


@dataclass(frozen=True)
class Release:
    """The trial's parts, running."""

    placed: Placed
    node: subprocess.Popen[str]
    router: subprocess.Popen[str]
    node_started: Started
    router_started: Started
    node_ready: dict[str, str]


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose torch cannot be imported, as in the image of nodes."""
    folder = tmp_path_factory.mktemp("no-torch")
    (folder / "torch.py").write_text("raise ImportError('no torch in this image')\n")
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, no_torch: Path) -> Iterator[Release]:
    rendered = of_size("trial")
    placed = Placed(rendered, tmp_path_factory.mktemp("release"))
    with ExitStack() as stack:
        (port,) = free_ports(1)
        stack.enter_context(valkey_of(placed, HOST, port))
        placed.addresses[f"{host('kvquilt-valkey')}:6379"] = f"{HOST}:{port}"
        node = placed.process("kvquilt-node")
        node_process, ready = stack.enter_context(started(node, without_torch=no_torch))
        placed.addresses[f"dns:///{host('kvquilt-nodes')}:7411"] = f"{HOST}:{node.port}"
        router = placed.process("kvquilt-router-smollm2")
        with_demo_model(router)
        router_process, _ = stack.enter_context(started(router))
        placed.addresses[f"{host('kvquilt-router-smollm2')}:7410"] = f"{HOST}:{router.port}"
        yield Release(placed, node_process, router_process, node, router, ready)


def test_probes_are_answered(release: Release) -> None:
    template = release.placed.rendered.one("Deployment", "kvquilt-node")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        service = container[probe]["grpc"].get("service", "")
        assert health(release.node_started.health, service) == SERVING
        assert health(release.router_started.health, service) == SERVING


def test_the_store_is_the_releases_valkey(release: Release) -> None:
    assert release.node_ready["store"] == f"redis at {release.placed.addresses[host('kvquilt-valkey') + ':6379']}"


def test_the_test_pod_succeeds_in_the_image_of_nodes(release: Release, no_torch: Path) -> None:
    pod = release.placed.process("kvquilt-test-smollm2")
    environment = {**passed_on(), **pod.environment, "PYTHONPATH": str(no_torch)}
    command = [sys.executable, "-m", "kvquilt", *pod.arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_a_request_is_served_from_what_another_one_left(release: Release) -> None:
    target = f"{HOST}:{release.router_started.port}"
    text = "The lamp of the lighthouse turns once in ten seconds, and has done so for a hundred years. " * 4
    prompt = [text, "How often does the lamp turn?"]
    with Client(target) as client:
        first = client.blend(prompt).report
        assert "not_stored" in {chunk.miss_reason for chunk in first.chunks}
        eventually(lambda: client.blend(prompt).report.tokens_exact > first.tokens_exact)  # stored in the background


def test_parts_end_within_their_grace_period_when_they_are_told_to(release: Release) -> None:
    """Last: it ends them."""
    for name, process in (("kvquilt-router-smollm2", release.router), ("kvquilt-node", release.node)):
        spec = release.placed.rendered.one("Deployment", name)["spec"]["template"]["spec"]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(spec["terminationGracePeriodSeconds"]) == 0
