"""A soak from an empty folder to its outcome."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from drills.place import LEASE, Place
from kvquilt_cache_node.store.redis_records import Names
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials
from soak import verdict
from soak.faults import Faults
from soak.load import TENANTS, SoakLoad
from soak.sampling import Sample, Sampler
from tests import servers
from tests.proxy import resettable
from tests.rpc.certificates import Signer

CAPACITY = 16 << 20
"""Bytes that each of the two stores may hold; the load has three times as many for each."""
MEMORY = 4 << 20
WARM_UP = 5.0
"""Seconds of load before the first measurement at rest."""
REST = 3.0
"""Seconds without load before a measurement at rest."""
LEASES = 12
"""After so many lease times nothing may be left: a lease to delete is prolonged for ten."""
PERSISTENT = -1
"""What Redis says of the time to live of a key that stays."""
_INDEX = "{kvquilt:index}"


@dataclass(frozen=True)
class Outcome:
    """What came of a soak.

    Attributes:
        rows: a process each, of the table.
        samples: all, one a second.
        faults: how many there were, by name.
        requests: how many.
        missed: errors of our tree, by reason.
        most: the most bytes that were seen, by what they are of.
        problems: all that must not be, in words.
    """

    rows: list[dict[str, Any]]
    samples: list[Sample]
    faults: dict[str, int]
    requests: int
    missed: dict[str, int]
    most: dict[str, int]
    problems: list[str]


class Soak:
    """Two nodes that share objects and index in a Redis, and one with a file store; all with memory and tokens."""

    def __init__(self, place: Place, seed: int) -> None:
        self._seed = seed
        self._signer = Signer.new(place.folder / "tokens.key")
        token = f"node.security.token_key={self._signer.public}"
        common = (token, f"node.capacity={CAPACITY}", f"node.memory_bytes={MEMORY}")
        self.redis = place.valkey()
        shared = place.redis_settings(self.redis.url, shared=True)
        self.processes = {f"shared-{at}": place.node(*common, *shared) for at in range(2)}
        self.processes["file"] = place.node(*common, "node.fsync=false")
        self.targets = dict(zip(self.processes, place.targets, strict=True))
        self.blobs = {"file": place.folder / "node-2" / "data" / "blobs"}

    def client(self, target: str, tenant: str) -> NodeClient:
        """As a tenant, or as an operator (`*`)."""
        return NodeClient(target, Credentials(token=self._signer.token(f"of {tenant}".replace(" ", "-"), tenant)))

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[tuple[SoakLoad, Faults]]:
        """Load and faults, which do not run yet; the load's connections can be reset."""
        async with AsyncExitStack() as stack:
            behind, resets = {}, []
            for name, target in self.targets.items():
                behind[name], reset = await stack.enter_async_context(resettable(target))
                resets.append(reset)
            stores = [
                {tenant: [self.client(behind[name], tenant) for name in names] for tenant in TENANTS}
                for names in (("shared-0", "shared-1"), ("file",))
            ]
            load = SoakLoad(stores, self._seed)
            stack.push_async_callback(load.close)
            yield load, Faults(self.processes, self.redis, resets, self._seed)


async def run(folder: Path, *, seconds: float, seed: int) -> Outcome:
    """One soak in a folder that is empty; nothing that it started is running afterwards."""
    with ExitStack() as stack:
        soak = await asyncio.to_thread(Soak, Place(folder, stack), seed)
        operators = {name: soak.client(target, "*") for name, target in soak.targets.items()}
        async with Redis(port=soak.redis.port, protocol=2) as redis, soak.loaded() as (load, faults):
            sampler = Sampler(soak.processes, operators, soak.blobs, redis)
            async with load.running():
                await asyncio.sleep(min(WARM_UP, seconds / 4))
            await asyncio.sleep(REST)
            first = await sampler.sample()
            async with load.running(), load.working([faults.work(), sampler.work()]):
                await asyncio.sleep(seconds)
            await asyncio.sleep(REST)
            left = await _left(redis, operators["shared-0"])
            last = await sampler.sample()
            raised = [line for process in soak.processes.values() for line in _raised(process)]
            for operator in operators.values():
                await operator.close()
    rows = [
        verdict.growth(sampler.samples, name) | verdict.handles(first, last, sampler.samples, name)
        for name in soak.processes
    ]
    caps = {f"{name} used_bytes": CAPACITY for name in soak.processes} | {"file file_bytes": CAPACITY}
    seen = {
        name
        for sample in sampler.samples
        for name in sample
        if name.endswith(("bytes", "memory")) and "rss" not in name
    }
    most = {name: int(max(sample.get(name, 0.0) for sample in sampler.samples)) for name in sorted(seen)}
    found = [*load.failed, *(f"wrong bytes of {name}" for name in load.wrong), *raised]
    found += verdict.problems(rows, sampler.samples, caps, left)
    missed = dict(load.missed.most_common())
    return Outcome(rows, sampler.samples, dict(faults.happened), load.requests, missed, most, found)


def _raised(process: servers.Process) -> list[str]:
    """What a node logged of errors that nobody expected: the last lines of their tracebacks."""
    said = (process.folder / "output").read_text(errors="replace").split("Traceback (most recent call last):\n")[1:]
    return [next(line for line in part.splitlines() if not line.startswith(" ")) for part in said]


async def _left(redis: Redis, node: NodeClient) -> dict[str, int]:
    """What is in Redis that no row of the index stands for, once all leases that nobody prolongs are over."""
    found: dict[str, int] = {}
    for _ in range(2 * LEASES):
        found = await _beside_rows(redis, node)
        if not any(found.values()):
            break
        await asyncio.sleep(LEASE / 2)
    return found


async def _beside_rows(redis: Redis, node: NodeClient) -> dict[str, int]:
    names = Names("kvquilt")
    stored = 0
    async for name in redis.scan_iter(match=names.all_frames, count=512):
        if await redis.ttl(name) == PERSISTENT:  # frames of a write that was cut off vanish by themselves
            stored += await redis.strlen(name)
    used = (await node.status(deadline=5)).used_bytes
    return {
        "holds": await redis.hlen(f"{_INDEX}:holds"),
        "leases": await redis.zcard(f"{_INDEX}:leases"),
        "leases of readers": await redis.zcard(f"{_INDEX}:reads"),
        "bytes to delete": await redis.zcard(f"{_INDEX}:gone"),
        "reserved bytes": int(await redis.hget(f"{_INDEX}:sums", "reserved") or 0),
        "bytes of blobs without a row, or of rows without a blob,": abs(stored - used),
    }
