"""Mixed load of several tenants: every kind of call that a router makes, on more objects than the stores hold."""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache

from drills.asking import DEADLINE, Asking
from drills.load import SHAPES, Made, verified
from kvquilt_codec.errors import IntegrityError, KvquiltError
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.types import Level
from kvquilt_rpc.node_client import NodeClient
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object

TENANTS = ("tenant-a", "tenant-b", "tenant-c")
OBJECTS = 80
"""Of each tenant in each store: about three times what the store holds."""
PAUSE = 0.03
"""Seconds between two requests of a worker, on average."""
UNSURE = 10.0
"""Seconds after a put without an answer in which it may still be carried out."""
ACTS = {"get": 45, "put": 25, "stat": 10, "find": 8, "touch": 4, "forget": 5, "forget document": 3}
"""Kinds of requests, and how many of a hundred."""


@cache
def made(tenant: str, number: int) -> Made:
    """An object of a tenant: 20 to 300 KiB, coded without loss or as int8 by turns; two objects a document."""
    level = Level.LOSSLESS if number % 2 else Level.HIGH
    seed = 10_000 * TENANTS.index(tenant) + number
    chunk = make_chunk(50 + 150 * (number % 4), SHAPES, seed=seed)
    return make_object(chunk, level, f"doc {number // 2}", namespace=tenant)


class Worker:
    """Asks as one tenant about objects that no other worker puts or forgets.

    Args:
        asking: counts what comes of it.
        nodes: clients of nodes that share one store, any of which may be asked.
        tenant: as whom `nodes` are called.
        numbers: of its objects.
        seed: of its choices.
    """

    def __init__(
        self, asking: Asking, nodes: Sequence[NodeClient], tenant: str, numbers: Sequence[int], seed: str
    ) -> None:
        self._asking = asking
        self._nodes = nodes
        self._tenant = tenant
        self._numbers = numbers
        self._random = random.Random(seed)
        self._absent: set[int] = set()
        """Forgotten, and not put since: a get must miss."""
        self._unsure: dict[int, float] = {}
        """Until when an earlier put may still be carried out."""

    async def work(self) -> None:
        """Ask until cancelled."""
        while True:
            (act,) = self._random.choices(list(ACTS), list(ACTS.values()))
            # The squared draw asks for some objects much more often than for others.
            number = self._numbers[int(len(self._numbers) * self._random.random() ** 2)]
            await self._act(act, number, self._random.choice(self._nodes))
            await asyncio.sleep(self._random.uniform(0, 2 * PAUSE))

    async def _act(self, act: str, number: int, node: NodeClient) -> None:
        key, data, meta = made(self._tenant, number)
        if act == "get":
            await self._get(number, node)
        elif act == "put":
            self._absent.discard(number)
            done = await self._asking.ask(act, lambda: node.put(key, data, meta, deadline=DEADLINE))
            if not isinstance(done, bool):
                self._unsure[number] = time.monotonic() + UNSURE
        elif act == "stat":
            keys = [made(self._tenant, other)[0] for other in self._numbers]
            await self._asking.ask(act, lambda: node.stat(keys, deadline=DEADLINE))
        elif act == "find":
            await self._find(number, node)
        elif act == "touch":
            await self._asking.ask(act, lambda: node.touch([key], [], deadline=DEADLINE))
        elif act == "forget":
            done = await self._asking.ask(act, lambda: node.forget(keys=[key], deadline=DEADLINE))
            self._forgot([number], done)
        else:
            document = meta.document_ids[0]
            done = await self._asking.ask(act, lambda: node.forget(documents=[document], deadline=DEADLINE))
            self._forgot([other for other in self._numbers if other // 2 == number // 2], done)

    def _forgot(self, numbers: Sequence[int], done: object) -> None:
        if isinstance(done, KvquiltError) or done is None:
            return
        now = time.monotonic()
        self._absent.update(number for number in numbers if self._unsure.get(number, 0.0) < now)

    async def _get(self, number: int, node: NodeClient) -> None:
        key, data, _ = made(self._tenant, number)
        absent = number in self._absent
        got = await self._asking.ask("get", lambda: verified(node, key, DEADLINE))
        if isinstance(got, IntegrityError):
            with contextlib.suppress(KvquiltError):
                await node.forget(keys=[key], deadline=DEADLINE)
        if isinstance(got, bytes):
            if got != data:
                self._asking.wrong.append(f"{self._tenant} {number}")
            if absent:
                self._asking.failed.append(f"get: object {number} of {self._tenant} came though it was forgotten")

    async def _find(self, number: int, node: NodeClient) -> None:
        meta = made(self._tenant, number)[2]
        prints = [digest for _, digest in unpack(meta.fingerprints, meta.tokens)]
        await self._asking.ask("find", lambda: node.find_chunks(prints, FINGERPRINT, deadline=DEADLINE))
        await self._asking.ask(
            "find", lambda: node.find_variants([meta.chunk_key], FINGERPRINT, PREFIX, deadline=DEADLINE)
        )


class SoakLoad(Asking):
    """All tenants' workers.

    Args:
        stores: for each store the clients of its nodes, by tenant.
        seed: of all choices.
    """

    def __init__(self, stores: Sequence[dict[str, list[NodeClient]]], seed: int) -> None:
        super().__init__()
        self._clients = [client for store in stores for clients in store.values() for client in clients]
        halves = (range(OBJECTS // 2), range(OBJECTS // 2, OBJECTS))
        self._workers = [
            Worker(self, clients, tenant, half, f"{seed} {at} {tenant} {half.start}")
            for at, store in enumerate(stores)
            for tenant, clients in store.items()
            for half in halves
        ]

    def running(self) -> AbstractAsyncContextManager[None]:
        """Have them ask."""
        return self.working([worker.work() for worker in self._workers])

    async def close(self) -> None:
        """Close all channels."""
        for client in self._clients:
            await client.close()
