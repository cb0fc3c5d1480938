"""Containers as processes of this machine, and what their probes ask them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.helm.placed import Started
from tests.servers import HOST

SERVING = health_pb2.HealthCheckResponse.SERVING


@contextmanager
def started(
    how: Started, *, without_torch: Path | None = None, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The container's process, and what it says when it is ready; `variables` come on top, as a webhook adds them."""
    environment = {**passed_on(), **how.environment, **variables}
    if without_torch is not None:
        environment["PYTHONPATH"] = str(without_torch)
    process = subprocess.Popen(
        [sys.executable, "-m", "kvquilt", *how.arguments], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def health(port: int, service: str = "", address: str = HOST) -> int:
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=60).status


def passed_on() -> dict[str, str]:
    """Of this process's environment what says how Python runs."""
    return {key: value for key, value in os.environ.items() if key.startswith(("PYTHON", "OMP_", "PATH"))}
