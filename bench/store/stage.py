"""The processes that are measured: Valkey, nodes, and the bare server."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from drills.place import Place
from store.objects import Made
from tests import servers

TIMEOUT = 30.0
"""Seconds that anything may take: the machine may be busy."""


@dataclass(frozen=True, slots=True)
class Target:
    """A process that is called, and the processes whose work a call is."""

    address: str
    pids: Sequence[int]


class Stage:
    """Starts what is measured, in a scratch folder, until the stack is left."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._place = Place(folder, stack)
        self.valkey = stack.enter_context(servers.valkey(folder / "valkey"))

    def node(self, *settings: str, on_redis: bool = False) -> Target:
        """A node process, by default with a file store."""
        chosen = [*settings, "node.capacity=8GiB"]
        pids = []
        if on_redis:
            prefix = f"node-{len(self._place.nodes)}"
            # First, so that a caller's own prefix is the one that holds.
            own = ["node.store=redis", f"node.redis_url={self.valkey.url}", f"node.redis_prefix={prefix}"]
            chosen = [*own, f"node.redis_timeout={TIMEOUT}", *chosen]
            pids = [self.valkey.process.pid]
        process = self._place.node(*chosen)
        return Target(self._place.targets[-1], [process.pid, *pids])

    @property
    def node_pids(self) -> list[int]:
        """Of the node processes."""
        return [process.pid for process in self._place.nodes]

    def bare(self, objects: Sequence[Made]) -> Target:
        """The bare server with these objects."""
        folder = self.folder / "bare"
        folder.mkdir()
        for made in objects:
            (folder / made.key.hex()).write_bytes(made.data)
        (port,) = servers.free_ports(1)
        command = [sys.executable, "-m", "store.bare", str(port), *(made.key.hex() for made in objects)]
        passed = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "OMP_"))}
        passed["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in passed["PYTHONPATH"].split(":"))
        process = servers.Process(command, folder, lambda: servers.listens(port), passed)
        self._stack.callback(process.kill)
        process.start()
        return Target(f"{servers.HOST}:{port}", [process.pid])
