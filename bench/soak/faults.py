"""Faults at random moments: pauses, kills and resets, one at a time."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from drills.place import start
from tests import servers

QUIET = (2.0, 6.0)
"""Seconds between two faults."""
LASTING = (0.3, 1.5)
"""Seconds that a pause or an absence takes."""


class Faults:
    """Breaks something, mends it, waits, and so on until it is cancelled; then nothing is left broken.

    Args:
        nodes: their processes, which are paused only: a restart would hide what they leak.
        redis: paused, killed, and its connections reset.
        resets: each resets connections between nodes and their callers.
        seed: of all choices.

    Attributes:
        happened: how often, by name.
    """

    def __init__(
        self,
        nodes: Mapping[str, servers.Process],
        redis: servers.RedisServer,
        resets: Sequence[Callable[[], None]],
        seed: int,
    ) -> None:
        self._nodes = nodes
        self._redis = redis
        self._resets = resets
        self._random = random.Random(seed)
        self.happened: Counter[str] = Counter()

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(*QUIET))
            act = self._random.choice(
                (self._pause_node, self._pause_redis, self._kill_redis, self._reset_redis, self._reset)
            )
            self.happened[act.__name__.strip("_").replace("_", " ")] += 1
            acting = asyncio.create_task(act())
            try:
                await asyncio.shield(acting)
            finally:
                await acting  # what is broken is mended, also when nobody wants more

    async def _paused(self, process: servers.Process) -> None:
        process.pause()
        await asyncio.sleep(self._random.uniform(*LASTING))
        process.resume()

    async def _pause_node(self) -> None:
        await self._paused(self._random.choice(list(self._nodes.values())))

    async def _pause_redis(self) -> None:
        await self._paused(self._redis.process)

    async def _kill_redis(self) -> None:
        self._redis.process.kill()
        await asyncio.sleep(self._random.uniform(*LASTING))
        await start(self._redis.process)

    async def _reset_redis(self) -> None:
        await asyncio.to_thread(self._redis.command, "CLIENT", "KILL", "TYPE", "normal")

    async def _reset(self) -> None:
        for reset in self._resets:
            reset()
