"""What the Dockerfile's steps make starts: as another user than root, on a root that cannot be written.

`make check-image` makes the roots that these tests start from.
"""

import base64
import json
import os
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvquilt import Client
from tests.helm.running import SERVING, health
from tests.metrics import scrape
from tests.servers import HOST, free_ports
from tests.stack import eventually

ROOTS = Path(os.environ.get("CLEAN_ROOTS", "/nonexistent"))

pytestmark = pytest.mark.skipif(not ROOTS.joinpath("images.json").exists(), reason="no roots: run `make check-image`")

USER = 10001
TEXT = "The lamp of the lighthouse turns once in ten seconds, and has done so for a hundred years. " * 4
_CONFINED = """
mount --bind {root} {root}
mount --rbind /proc {root}/proc
mount --rbind /dev {root}/dev
mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
mount -o remount,bind,ro {root}
exec chroot --userspec={user} --groups= {root} env --ignore-environment {command}
"""


def command(stage: str, *words: str) -> list[str]:
    """Words in a stage's root, as its user, with its environment; what an engine does, in a mount namespace."""
    image = json.loads(ROOTS.joinpath("images.json").read_text())[stage]
    assert image["user"] == f"{USER}:{USER}"
    environment = [f"{name}={value}" for name, value in image["environment"].items()]
    inside = shlex.join([*environment, "HOME=/tmp", "XDG_CACHE_HOME=/tmp/cache", *words])
    script = _CONFINED.format(root=shlex.quote(str(ROOTS / stage)), user=image["user"], command=inside)
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script]


def entry_point(stage: str) -> list[str]:
    words: list[str] = json.loads(ROOTS.joinpath("images.json").read_text())[stage]["command"]
    return words


@contextmanager
def started(stage: str, *flags: str, **settings: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An image's entry point and command; yields its process and its port for health."""
    (port,) = free_ports(1)
    given = {"host": HOST, "port": 0, "health_port": port, **settings}
    flags += tuple(word for name, value in given.items() for word in ("--set", f"{stage}.{name}={value}"))
    process = subprocess.Popen(command(stage, *entry_point(stage), "--json", *flags), stdout=subprocess.PIPE, text=True)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def address(process: subprocess.Popen[str], part: str) -> str:
    """What a part says when it is ready."""
    assert process.stdout is not None
    said: dict[str, str] = json.loads(process.stdout.readline())
    return said[part]


def ended(process: subprocess.Popen[str]) -> int:
    os.kill(process.pid, signal.SIGTERM)
    return process.wait(120)


@pytest.mark.parametrize("stage", ["node", "router"])
def test_the_image_says_its_version_and_its_root_cannot_be_written(stage: str) -> None:
    said = subprocess.run(command(stage, "kvquilt", "--version"), capture_output=True, text=True, timeout=300)
    assert said.stdout.strip() == "0.1.0", said.stderr
    wrote = subprocess.run(command(stage, "touch", "/here"), capture_output=True, text=True, timeout=60)
    assert "Read-only file system" in wrote.stderr


def test_the_nodes_image_has_no_torch_and_no_compiler() -> None:
    for words in (("python", "-c", "import torch"), ("g++", "--version")):
        assert subprocess.run(command("node", *words), capture_output=True, timeout=60).returncode


def test_the_native_kernels_are_in_the_images() -> None:
    words = ("python", "-c", "import kvquilt_kernels._native")
    for stage in ("node", "router"):
        said = subprocess.run(command(stage, *words), capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr


def test_node_and_router_start_answer_health_serve_and_end() -> None:
    with started("node", path="/tmp/data") as (node, node_health):  # noqa: S108  in its own root
        node_address = address(node, "node")
        assert health(node_health) == SERVING
        with started("router", nodes=node_address) as (router, router_health):
            target = address(router, "router")
            assert health(router_health) == SERVING
            for process in (node, router):
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                (user,) = (line.split()[1:] for line in status if line.startswith("Uid:"))
                assert set(user) == {str(USER)}
            prompt = [TEXT, "How often does the lamp turn?"]
            with Client(target) as client:
                first = client.blend(prompt, deadline=300).report
                eventually(lambda: client.blend(prompt, deadline=300).report.tokens_exact > first.tokens_exact)
            assert ended(router) == 0
        assert ended(node) == 0


def test_what_the_chart_can_turn_on_is_installed() -> None:
    """Metrics, traces, the status page, the access log and encryption are extras; servers start with them."""
    node_metrics, router_metrics, page = free_ports(3)
    key = base64.b64encode(bytes(range(32))).decode()
    of_node = {"path": "/tmp/data", "metrics_port": node_metrics, "encryption_key": key}  # noqa: S108  in its own root
    of_router = {"metrics_port": router_metrics, "status_port": page, "access_log": "/tmp/log"}  # noqa: S108
    traced = ("--set", f"tracing.endpoint=http://{HOST}:1")
    with (
        started("node", *traced, **of_node) as (node, _),
        started("router", *traced, nodes=address(node, "node"), **of_router) as (router, _),
    ):
        address(router, "router")
        assert scrape(node_metrics).exported
        assert scrape(router_metrics).exported
        with urllib.request.urlopen(f"http://{HOST}:{page}/", timeout=60) as shown:
            assert shown.status == 200
