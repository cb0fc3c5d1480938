"""Where a drill takes place: node processes, and the servers that they store in."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests import servers

TIMEOUT = 0.5
"""Seconds that a node waits for its store: less than a request may take."""
LEASE = 1.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Place:
    """A scratch folder with servers and nodes in it, ended together. Every node keeps its port when it starts again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.nodes: list[servers.Process] = []
        self.targets: list[str] = []

    def node(self, *settings: str, path: Path | None = None) -> servers.Process:
        """A running node whose folder is `path`, by default one of its own."""
        (port,) = servers.free_ports(1)
        own = self.folder / f"node-{len(self.nodes)}"
        own.mkdir()
        command = [sys.executable, "-m", "kvquilt", "node", "--json", "--port", str(port)]
        command += ["--data-dir", str(path or own / "data")]
        for setting in settings:
            command += ["--set", setting]
        passed = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "OMP_"))}
        process = servers.Process(command, own, lambda: servers.listens(port), passed)
        self._stack.callback(process.kill)
        process.start()
        self.nodes.append(process)
        self.targets.append(f"{servers.HOST}:{port}")
        return process

    def valkey(self) -> servers.RedisServer:
        """A Valkey that keeps what it acknowledges."""
        return self._stack.enter_context(servers.valkey(self.folder / "valkey", *DURABLE))

    def valkey_cluster(self) -> list[servers.RedisServer]:
        """Three primaries that share the slots and keep what they acknowledge."""
        return self._stack.enter_context(servers.valkey_cluster(self.folder / "cluster", *DURABLE))

    def redis_settings(self, url: str, *, shared: bool = False) -> Sequence[str]:
        """Of a node that stores there; `shared` with its index."""
        settings = ["node.store=redis", f"node.redis_url={url}", f"node.redis_timeout={TIMEOUT}"]
        if shared:
            settings += ["node.index=redis", "node.eviction=lru", f"node.lease_seconds={LEASE}"]
        return settings

    def s3(self) -> servers.S3Server:
        """A SeaweedFS with a bucket."""
        return self._stack.enter_context(servers.s3(self.folder / "s3"))

    def s3_settings(self, server: servers.S3Server) -> Sequence[str]:
        """Of a node that stores in it."""
        return [
            "node.store=object",
            f"node.object_url={server.url}",
            f"node.object_endpoint={server.endpoint}",
            f"node.object_key_id={servers.S3_KEY_ID}",
            f"node.object_secret={servers.S3_SECRET}",
            f"node.object_timeout={TIMEOUT}",
            "node.object_retries=1",
        ]


async def start(*processes: servers.Process) -> None:
    """Start processes one after the other while the load goes on."""
    for process in processes:
        await asyncio.to_thread(process.start)
