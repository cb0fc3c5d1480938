"""What is watched, once a second: memory, file descriptors and threads of processes, and how full stores are."""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.node_client import NodeClient
from tests import servers

Sample = dict[str, float]
"""Figures by name; what could not be had at that moment is left out."""
_LISTINGS = 20
_STATUS = re.compile(r"^(VmRSS|Threads):\s+(\d+)", re.MULTILINE)


def of_process(pid: int) -> Sample:
    """Resident bytes, threads and open file descriptors of a process."""
    folder = Path("/proc") / str(pid)
    found = dict(_STATUS.findall((folder / "status").read_text()))
    descriptors = len(list((folder / "fd").iterdir()))
    return {"rss_bytes": int(found["VmRSS"]) * 1024.0, "threads": float(found["Threads"]), "fds": float(descriptors)}


def bytes_below(folder: Path) -> float | None:
    """Of all files below a folder at one moment: of two listings in a row that are the same; `None` without any."""
    former: dict[Path, tuple[int, int]] = {}
    for _ in range(_LISTINGS):
        listed = {}
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found = path.stat()
                    # The time tells a file from the one that was there before under its name.
                    listed[path] = (found.st_size, found.st_mtime_ns)
        if listed == former:
            return float(sum(size for size, _ in listed.values()))
        former = listed
    return None


class Sampler:
    """Takes samples until it is cancelled.

    Args:
        processes: by name.
        clients: of nodes, by name; each may see all figures.
        blobs: folder of a file store's objects, by its node's name.
        redis: of the server that objects and index are in.

    Attributes:
        samples: all so far, each figure named `PROCESS FIGURE`.
    """

    def __init__(
        self,
        processes: Mapping[str, servers.Process],
        clients: Mapping[str, NodeClient],
        blobs: Mapping[str, Path],
        redis: Redis,
    ) -> None:
        self._processes = processes
        self._clients = clients
        self._blobs = blobs
        self._redis = redis
        self.samples: list[Sample] = []

    async def work(self) -> None:
        """One sample each second."""
        while True:
            self.samples.append(await self.sample())
            await asyncio.sleep(1)

    async def sample(self) -> Sample:
        """All figures now."""
        found: Sample = {}
        for name, process in self._processes.items():
            found |= {f"{name} {figure}": value for figure, value in of_process(process.pid).items()}
        for name, client in self._clients.items():
            try:
                status = await client.status(deadline=0.5)
            except KvquiltError:
                continue
            found[f"{name} used_bytes"] = float(status.used_bytes)
        for name, folder in self._blobs.items():
            if (size := await asyncio.to_thread(bytes_below, folder)) is not None:
                found[f"{name} file_bytes"] = size
        try:
            async with asyncio.timeout(0.5):
                memory = await self._redis.info("memory")
            found["redis used_memory"] = float(memory["used_memory"])
        except (RedisError, OSError, TimeoutError):
            pass
        return found
