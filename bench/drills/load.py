"""What asks a node: puts and gets the way a router makes them, with a memory of what was acknowledged.

A router takes every error of our tree as a miss with a reason, verifies what it reads, and lets the node drop what is
damaged. So does this load; what else may happen to a request is a failure: any other exception, and a call that takes
longer than its deadline and a margin.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache

from drills.asking import DEADLINE, RECOVERY_LIMIT, Asking
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import HeldContainer
from kvquilt_codec.errors import DeadlineError, IntegrityError, KvquiltError, UnavailableError
from kvquilt_codec.types import LayerShape, Level
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials
from tests.codec.samples import FINGERPRINT, make_chunk, make_object

PAUSE = 0.02
"""Seconds between two requests of a worker, on average."""
WORKERS = 4
POPULATION = 48
SHAPES = (LayerShape(4, 32, 32),) * 2

Made = tuple[bytes, bytes, ObjectMeta]


@cache
def numbered(number: int) -> Made:
    """Key, container and description of an object: 20 to 300 KiB, coded without loss or as int8 by turns."""
    level = Level.LOSSLESS if number % 2 else Level.HIGH
    return make_object(make_chunk(50 + 150 * (number % 4), SHAPES, seed=number), level, f"doc {number}")


async def verified(node: NodeClient, key: bytes, deadline: float) -> bytes:
    """An object's container, every checksum verified as readers do."""
    pieces = node.get(key, FINGERPRINT, deadline=deadline)
    data = b"".join([piece async for piece in pieces if isinstance(piece, bytes)])
    HeldContainer.received(data, FINGERPRINT)
    return data


class Load(Asking):
    """Workers that put and get objects until they are told to stop; it counts what came of it.

    Attributes:
        acknowledged: when the latest acknowledged put of each object was, by its number (`time.monotonic`).
        nodes: clients of the nodes.
    """

    def __init__(
        self,
        targets: Sequence[str],
        seed: int,
        *,
        population: int = POPULATION,
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__()
        self.acknowledged: dict[int, float] = {}
        self.random = random.Random(seed)
        self.population = population
        self._targets = targets
        self._credentials = credentials
        self.nodes = self._connected()
        self._former: list[NodeClient] = []

    def _connected(self) -> list[NodeClient]:
        return [NodeClient(target, self._credentials) for target in self._targets]

    def reconnect(self) -> None:
        """Use fresh connections from now on; requests under way end on the former ones."""
        self._former += self.nodes
        self.nodes = self._connected()

    async def close(self) -> None:
        """Close the channels."""
        for node in (*self.nodes, *self._former):
            await node.close()

    async def put(self, number: int, node: int = 0) -> bool:
        """Whether the put was acknowledged."""
        key, data, meta = numbered(number)
        done = await self.ask("put", lambda: self.nodes[node].put(key, data, meta, deadline=DEADLINE))
        if not isinstance(done, bool):
            return False
        self.acknowledged[number] = time.monotonic()
        return True

    async def get(self, number: int, node: int = 0) -> bool:
        """Whether the object came, byte for byte."""
        key, data, _ = numbered(number)
        got = await self.ask("get", lambda: verified(self.nodes[node], key, DEADLINE))
        if isinstance(got, IntegrityError):
            with contextlib.suppress(KvquiltError):
                await self.nodes[node].forget(keys=[key], deadline=DEADLINE)
        if not isinstance(got, bytes):
            return False
        if got != data:
            self.wrong.append(key.hex())
        return got == data

    async def fill(self, count: int) -> None:
        """Store the first objects, before anything happens."""
        for number in range(count):
            await self.stored(number)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Have the workers ask every node by turns."""
        return self.working([self._worker(at % len(self.nodes)) for at in range(WORKERS)])

    async def _worker(self, node: int) -> None:
        while True:
            act = self.put if self.random.random() < 0.3 else self.get
            await act(self.random.randrange(self.population), node)
            await asyncio.sleep(self.random.uniform(0, 2 * PAUSE))

    async def amid(self, kind: str) -> None:
        """Return at a random moment shortly after the next `put` or `get` began."""
        await self.next(kind)
        await asyncio.sleep(self.random.uniform(0, 0.003))

    async def recovery(self, number: int, node: int = 0) -> float:
        """Seconds until an acknowledged object comes whole."""
        return await self.until(lambda: self.get(number, node), f"object {number} to come")

    async def stored(self, number: int) -> float:
        """Put an object again until that is acknowledged; returns the seconds."""
        return await self.until(lambda: self.put(number), f"object {number} to be stored")

    async def stored_anew(self, number: int) -> float:
        """Put a damaged object again until it comes whole; returns the seconds."""

        async def both() -> bool:
            return await self.put(number) and await self.get(number)

        return await self.until(both, f"object {number} to be stored anew")

    async def created(self, number: int, node: int = 0) -> float:
        """When a node says that it stored an object, in seconds since 1970."""
        key = numbered(number)[0]
        return (await self.nodes[node].stat([key], deadline=DEADLINE))[key].created

    async def lost(self) -> list[int]:
        """Acknowledged objects that do not come from every node, each asked again while a node is busy."""
        return [number for number in sorted(self.acknowledged) if not await self._kept(number)]

    async def _kept(self, number: int) -> bool:
        key, data, _ = numbered(number)
        for node in self.nodes:
            give_up = time.monotonic() + RECOVERY_LIMIT
            while True:
                try:
                    got = await verified(node, key, 5 * DEADLINE)
                except KvquiltError as error:
                    passing = isinstance(error, UnavailableError | DeadlineError)
                    if passing and time.monotonic() < give_up:
                        await asyncio.sleep(0.1)
                        continue
                    return False
                if got != data:
                    self.wrong.append(key.hex())
                    return False
                break
        return True
