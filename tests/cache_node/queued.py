"""A write queue over a store that can be down, killed at any moment and started again."""

import shutil
from pathlib import Path

from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.write_back import WriteBackBlobs
from kvquilt_cache_node.types import COUNTERS, Blobs
from kvquilt_rpc.counters import Counters
from tests.cache_node.stacks import Gated, until, write_back

DOWN = Faults(error=1.0)


class Cold:
    """Blobs in memory that can be down, and that outlive the queue's process."""

    def __init__(self) -> None:
        self.held = MemoryBlobs()
        self.faults = FaultBlobs(self.held)
        self.gate = Gated(self.faults)
        self.down = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.gate, name)

    @property
    def down(self) -> bool:
        return bool(self.faults.faults)

    @down.setter
    def down(self, down: bool) -> None:
        self.faults.faults = {"write": DOWN, "read": DOWN, "delete": DOWN, "sizes": DOWN} if down else {}

    async def close(self) -> None:
        """It goes on when a process ends that uses it."""

    async def has(self) -> dict[bytes, bytes]:
        return {key: (await self.held.read(key))[0] for key in await self.held.sizes()}


class QueuedNode:
    """A queue over a cold store, and what its counters say; ended by a kill at any moment, and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cold = Cold()
        self.generation = 0
        self.counters = Counters(COUNTERS)
        self.hurry = Hurry()
        self.blobs: WriteBackBlobs

    def start(self, **options: float) -> None:
        self.counters, self.hurry = Counters(COUNTERS), Hurry()
        cold: Blobs = self.cold
        options = {"drain": 0.05} | options
        self.blobs = write_back(cold, self.place, counters=self.counters, hurry=self.hurry, **options)

    @property
    def place(self) -> Path:
        return self.folder / str(self.generation)

    async def kill(self) -> None:
        """What was on the disk is what the next start finds; what the old process does from now on is not."""
        before = self.place
        self.generation += 1
        shutil.copytree(before, self.place)
        cold, self.cold = self.cold, Cold()
        for key, data in (await cold.has()).items():
            await self.cold.held.write(key, data)
        self.cold.down = cold.down
        cold.gate.going.set()
        await self.blobs.close()

    def count(self, name: str) -> int:
        return self.counters.snapshot()[name]

    async def worked_off(self) -> None:
        await until(lambda: not self.count("queue_entries"))
