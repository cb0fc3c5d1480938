"""A release's pods as processes: started, replaced, added and taken away in the order in which Kubernetes does it.

Each pod has an address of the loopback interface for itself, and on it the ports that are rendered. Names of services
stand for the addresses of pods that are ready, for Python's `socket` (tests/helm/hosts) and for gRPC (tests/names.py).
Pods are started and ended as the rendered Deployment says: its strategy, probes, `preStop` and grace period. Of all
times one is another than in a cluster: the waits of `preStop` are `HURRY` times as long. What they are there for, that
everybody has looked names up again, takes as long as ever where a test does not say otherwise: so parts end while
others still call them, which is harder than there.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tests.helm.chart import Object, Rendered, chooses, host
from tests.helm.placed import Placed, Started
from tests.helm.running import SERVING, health, passed_on
from tests.names import Names

HURRY = 0.2
_HOSTS = Path(__file__).parent / "hosts"


@dataclass
class Pod:
    """One of a Deployment's: where it is, and its process."""

    address: str
    how: Started
    log: Path
    process: subprocess.Popen[bytes]

    def ready(self) -> bool:
        """What its readiness probe says."""
        if self.process.poll() is not None:
            raise AssertionError(f"expected {self.address} to run; it ended: {self.said()}")
        with contextlib.suppress(grpc.RpcError):
            return health(self.how.health, address=self.address) == SERVING
        return False

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]


@dataclass
class Cluster:
    """Where pods run.

    Attributes:
        placed: their release.
        names: what names of services stand for.
        variables: of every process, as a webhook adds them.
        prepare: what is done to a pod's volumes before it starts.
        telling: held while names change; pods end side by side.
    """

    placed: Placed
    names: Names
    variables: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Started], None] = lambda _: None
    telling: threading.RLock = field(default_factory=threading.RLock)
    _addresses: Iterator[str] = field(init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _pods: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = random.SystemRandom()
        network = f"127.{draw.randint(1, 254)}.{draw.randint(0, 254)}"
        self._addresses = (f"{network}.{number}" for number in range(1, 255))
        self.publish({})

    def address(self) -> str:
        """One that nothing else has."""
        return next(self._addresses)

    def publish(self, services: Mapping[str, list[str]]) -> None:
        """Let names of services stand for these addresses."""
        with self.telling:
            self.names.addresses |= {host(name): list(addresses) for name, addresses in services.items()}
            whole = self._file.with_suffix(".new")
            whole.write_text(json.dumps(self.names.addresses))
            whole.replace(self._file)

    @property
    def _file(self) -> Path:
        return self.placed.folder / "names.json"

    def start(self, name: str) -> Pod:
        """A pod of a Deployment."""
        address = self.address()
        number = next(self._numbers)
        how = self.placed.process(name, number, address)
        self.prepare(how)
        log = self.placed.folder / f"{name}-{number}.log"
        pod = Pod(address, how, log, self._process(how, log))
        self._pods.append(pod)
        return pod

    def restart(self, pod: Pod) -> None:
        """What a kubelet does with a container that has ended: the same one again."""
        pod.process = self._process(pod.how, pod.log)

    def _process(self, how: Started, log: Path) -> subprocess.Popen[bytes]:
        environment = {**passed_on(), **how.environment, **self.variables}
        environment |= {"CLUSTER_NAMES": str(self._file), "PYTHONPATH": str(_HOSTS)}
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "kvquilt", *how.arguments], stdout=output, stderr=output, env=environment
            )

    def close(self) -> None:
        """End what is left."""
        for pod in self._pods:
            pod.process.kill()
            pod.process.wait(30)


class Pods:
    """A Deployment's pods.

    Attributes:
        running: those that are not told to end.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        deployment = cluster.placed.rendered.one("Deployment", name)
        self.name = name
        self.running: list[Pod] = []
        self._cluster = cluster
        self._strategy: Mapping[str, int] = deployment["spec"]["strategy"]["rollingUpdate"]
        self._spec: Object = deployment["spec"]["template"]["spec"]
        services = cluster.placed.rendered.of("Service")
        template = deployment["spec"]["template"]
        chosen = [found for found in services if chooses({"matchLabels": found["spec"]["selector"]}, template)]
        self._services = [found["metadata"]["name"] for found in chosen]

    def scale(self, count: int) -> None:
        """So many; returns when they are ready, and those that are too many have ended."""
        assert count > 0
        added = [self._cluster.start(self.name) for _ in range(count - len(self.running))]
        for pod in added:
            self._await_ready(pod)
        self.running += added
        self.publish()
        with ThreadPoolExecutor() as ends:
            leaving, self.running = self.running[count:], self.running[:count]
            for _ in ends.map(self._end, leaving):
                pass

    def roll(self) -> None:
        """Replace all, one by one; returns when the old ones have ended."""
        assert sum(self._strategy.values()) == 1
        with ThreadPoolExecutor() as ends:
            ending = []
            for old in list(self.running):
                if self._strategy["maxSurge"]:
                    self._add()
                self.running.remove(old)
                ending.append(ends.submit(self._end, old))  # while it ends the next one is replaced
                if self._strategy["maxUnavailable"]:
                    self._add()
            for end in ending:
                end.result()

    def kill(self, pod: Pod) -> None:
        """As a machine fails: nobody is told, and its address is known for a while."""
        pod.process.kill()
        pod.process.wait(30)

    def revive(self, pod: Pod) -> None:
        """Start its container again; returns when it is ready."""
        self._cluster.restart(pod)
        self._await_ready(pod)

    def publish(self) -> None:
        """Tell name servers of those that are ready."""
        with self._cluster.telling:
            addresses = [pod.address for pod in self.running]
            self._cluster.publish(dict.fromkeys(self._services, addresses))

    def _add(self) -> None:
        pod = self._cluster.start(self.name)
        self._await_ready(pod)
        self.running.append(pod)
        self.publish()

    def _await_ready(self, pod: Pod) -> None:
        (container,) = self._spec["containers"]
        probe = container["startupProbe"]
        give_up = time.monotonic() + probe["periodSeconds"] * probe["failureThreshold"]
        while not pod.ready():
            assert time.monotonic() < give_up, pod.said()
            time.sleep(0.05)

    def _end(self, pod: Pod) -> None:
        (container,) = self._spec["containers"]
        wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(wait * HURRY / 2)  # name servers go on to tell of it
        self.publish()
        time.sleep(wait * HURRY / 2)
        os.kill(pod.process.pid, signal.SIGTERM)
        assert pod.process.wait(self._spec["terminationGracePeriodSeconds"] - wait) == 0, pod.said()


def replicas(rendered: Rendered, name: str) -> int:
    """How many a release begins with."""
    spec = rendered.one("Deployment", name)["spec"]
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == name:
            return int(scaler["spec"]["minReplicas"])
    return int(spec["replicas"])
