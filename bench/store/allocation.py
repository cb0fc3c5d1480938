"""What it brings, and costs, that glibc keeps freed memory (`keep_freed_memory`): with and without, by turns.

    PYTHONPATH=bench:. python -m store.allocation

Each measurement has a client and, but for Redis alone, a node in new processes: the allocator is told at their start.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from drills.place import Place
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_codec.types import LayerShape, Level
from kvquilt_rpc.allocation import keep_freed_memory
from kvquilt_rpc.node_client import NodeClient
from tests import servers
from tests.codec.samples import FINGERPRINT, make_chunk, make_object

OBJECTS, ROUNDS, TURNS = 3, 7, 2
DEADLINE = 60.0
LAYERS = (LayerShape(8, 64, 64),) * 16
"""An object of 256 tokens takes about 4 MiB at 8 bits."""


def resident(pid: int | str = "self") -> float:
    """Memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def timed(name: str, call: Any, nbytes: int) -> dict[str, float]:
    """10^6 bytes a second, the median of rounds of `OBJECTS` calls; and page faults of this process a call."""
    rates = []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for number in range(ROUNDS):
        began = time.perf_counter()
        for one in range(OBJECTS):
            await call(number * OBJECTS + one)
        rates.append(OBJECTS * nbytes / (time.perf_counter() - began) / 1e6)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return {name: median(rates), f"{name}: page faults": faults / (ROUNDS * OBJECTS)}


async def with_redis(url: str) -> dict[str, float]:
    """Frames of 1 MiB, and blobs of 4 MiB, from this process to a Redis."""
    client = await RedisClient.connect(RedisUrl.parse(url), RedisOptions())
    blobs, data = RedisBlobs(client, "bench"), os.urandom(4 << 20)
    frame = data[: 1 << 20]
    got = await timed("SET of 1 MiB", lambda _: client.call("SET", "bench-frame", frame), len(frame))
    got |= await timed("GET of 1 MiB", lambda _: client.call("GET", "bench-frame"), len(frame))
    got |= await timed("write of 4 MiB in frames", lambda n: blobs.write((n % 4).to_bytes(32), data), len(data))
    got |= await timed("read of 4 MiB in frames", lambda n: blobs.read((n % 4).to_bytes(32)), len(data))
    got["client RSS, MiB"] = resident()
    await client.close()
    return got


async def with_node(address: str, pid: int) -> dict[str, float]:
    """Objects of about 4 MiB from this process to a node, and back."""
    client = NodeClient(address)
    made = [make_object(make_chunk(256, LAYERS, seed=seed), Level.HIGH, f"doc {seed}") for seed in range(OBJECTS)]
    nbytes = len(made[0][1])

    async def put(number: int) -> None:
        key, data, meta = made[number % OBJECTS]
        await client.forget(keys=[key], deadline=DEADLINE)
        await client.put(key, data, meta, deadline=DEADLINE)

    async def get(number: int) -> None:
        async for _ in client.get(made[number % OBJECTS][0], FINGERPRINT, deadline=DEADLINE):
            pass

    got = await timed("put to a node", put, nbytes) | await timed("get from a node", get, nbytes)
    await client.close()
    return got | {"node RSS, MiB": resident(pid)}


def worker(kept: str, what: str, *arguments: str) -> None:
    """One measurement in this process; prints its figures."""
    if kept == "true":
        keep_freed_memory()
    work = with_redis(arguments[0]) if what == "redis" else with_node(arguments[0], int(arguments[1]))
    sys.stdout.write(json.dumps(asyncio.run(work)))


def measured(kept: bool, what: str, *arguments: str) -> dict[str, float]:
    """The figures of a worker in a process of its own."""
    command = [sys.executable, "-m", "store.allocation", str(kept).lower(), what, *arguments]
    got: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603
    return got


def compare() -> dict[str, dict[str, list[float]]]:
    """Of each figure: all turns without ("false") and with ("true"). Takes about half a minute."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        valkey = stack.enter_context(servers.valkey(Path(folder) / "valkey"))
        place = Place(Path(folder), stack)
        for _ in range(TURNS):
            for kept in (False, True):
                node = place.node(f"node.keep_freed_memory={kept}", "node.fsync=false")
                got = measured(kept, "node", place.targets[-1], str(node.pid))
                node.kill()
                for name, figure in (measured(kept, "redis", valkey.url) | got).items():
                    found.setdefault(name, {"false": [], "true": []})[str(kept).lower()].append(figure)
    return found


def main() -> None:
    """Measure and print a table."""
    found = compare()
    print(f"{'MB/s':<40}{'as it is':>10}{'kept':>10}")
    for name, sides in found.items():
        print(f"{name:<40}{median(sides['false']):>10.0f}{median(sides['true']):>10.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(*sys.argv[1:])
    else:
        main()
