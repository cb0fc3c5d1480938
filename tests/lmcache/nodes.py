"""Cache nodes in processes that can be killed, paused and started again at the same address."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import HOST, Process, free_ports, listens


@dataclass
class Node(Process):
    """A node; its store is below its folder."""

    address: str = ""

    @property
    def blobs(self) -> list[Path]:
        """The containers that it keeps."""
        return sorted((self.folder / "store" / "blobs").glob("??/*.kvq"))


def node_at(folder: Path, *flags: str) -> Node:
    """A node with a file store in a folder, at a free port."""
    (port,) = free_ports(1)
    arguments = [sys.executable, "-m", "kvquilt", "node", "--port", str(port), "--data-dir", str(folder / "store")]
    return Node([*arguments, *flags], folder, lambda: listens(port), address=f"{HOST}:{port}")
