"""Where a drill takes place: node processes, and the servers that they store in."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from kvquilt_rpc.security import Credentials
from tests import servers

TIMEOUT = 0.5
"""Seconds that a node waits for its store: less than a request may take."""
LEASE = 1.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
FAILOVER_MILLISECONDS = 1000
"""Of silence, after which the servers of a Cluster take one of them for dead."""


class Place:
    """A scratch folder with servers and nodes in it, ended together. Every node keeps its port when it starts again.

    Attributes:
        folder: the scratch folder.
        stack: what ends with the place.
        nodes: the node processes.
        targets: their addresses.
        credentials: as whom nodes are called; `None`: as nobody.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.nodes: list[servers.Process] = []
        self.targets: list[str] = []
        self.credentials: Credentials | None = None

    def process(
        self, name: str, port: int, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> servers.Process:
        """A running `kvquilt` with these arguments, in a folder of its own."""
        own = self.folder / name
        own.mkdir()
        passed = {key: value for key, value in os.environ.items() if key.startswith(("PYTHON", "OMP_", "HF_"))}
        command = [sys.executable, "-m", "kvquilt", *arguments]
        process = servers.Process(command, own, lambda: servers.listens(port), {**passed, **(environment or {})})
        self.stack.callback(process.kill)
        process.start()
        return process

    def node(
        self, *settings: str, path: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> servers.Process:
        """A running node whose folder is `path`, by default one of its own."""
        (port,) = servers.free_ports(1)
        name = f"node-{len(self.nodes)}"
        command = ["node", "--json", "--port", str(port), "--data-dir", str(path or self.folder / name / "data")]
        process = self.process(name, port, *command, *_set(settings), environment=environment)
        self.nodes.append(process)
        self.targets.append(f"{servers.HOST}:{port}")
        return process

    def router(self, model: Path, *settings: str) -> tuple[servers.Process, str]:
        """A running router of these nodes, and its address."""
        (port,) = servers.free_ports(1)
        command = ["router", "--json", "--port", str(port), "--model", str(model)]
        for target in self.targets:
            command += ["--node", target]
        return self.process("router", port, *command, *_set(settings)), f"{servers.HOST}:{port}"

    def valkey(self, *options: str, environment: Mapping[str, str] | None = None) -> servers.RedisServer:
        """A Valkey that keeps what it acknowledges."""
        folder = self.folder / f"valkey-{len(list(self.folder.glob('valkey-*')))}"
        started = servers.valkey(folder, *DURABLE, *options, environment=environment)
        return self.stack.enter_context(started)

    def valkey_cluster(self, *, replicas: bool = False) -> list[servers.RedisServer]:
        """Three primaries that share the slots and keep what they acknowledge; with `replicas` one of each."""
        options = ("--cluster-node-timeout", str(FAILOVER_MILLISECONDS)) if replicas else ()
        started = servers.valkey_cluster(self.folder / "cluster", *DURABLE, *options, replicas=replicas)
        return self.stack.enter_context(started)

    def redis_settings(self, url: str, *, shared: bool = False) -> Sequence[str]:
        """Of a node that stores there; `shared` with its index. Without it, nothing is served from memory."""
        settings = ["node.store=redis", f"node.redis_url={url}", f"node.redis_timeout={TIMEOUT}"]
        if not shared:
            settings += ["node.memory_bytes=0"]
        else:
            settings += ["node.index=redis", "node.eviction=lru", f"node.lease_seconds={LEASE}"]
        return settings

    def s3(self) -> servers.S3Server:
        """A SeaweedFS with a bucket."""
        return self.stack.enter_context(servers.s3(self.folder / "s3"))

    def s3_settings(self, server: servers.S3Server, endpoint: str = "") -> Sequence[str]:
        """Of a node that stores in it, by another endpoint if that is given; nothing is served from memory."""
        return [
            "node.memory_bytes=0",
            "node.store=object",
            f"node.object_url={server.url}",
            f"node.object_endpoint={endpoint or server.endpoint}",
            f"node.object_key_id={servers.S3_KEY_ID}",
            f"node.object_secret={servers.S3_SECRET}",
            f"node.object_timeout={TIMEOUT}",
            "node.object_retries=1",
        ]


def _set(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


async def start(*processes: servers.Process) -> None:
    """Start processes one after the other while the load goes on."""
    for process in processes:
        await asyncio.to_thread(process.start)
