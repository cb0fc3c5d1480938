"""Faults of nodes, of the disk below them and of the bytes on it."""

import asyncio
import contextlib
import itertools
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from drills.asking import DEADLINE
from drills.load import Load, numbered
from drills.place import LEASE, start
from drills.stage import Outcome, Stage
from kvquilt_codec import container
from kvquilt_codec.container.head import PREFIX
from tests import servers

ROUNDS = 3
NEW = 1000
"""Numbers from here on are no part of the load: each is put by a drill itself."""
DISK_BYTES = 32 << 20
LEFT_BYTES = 96 << 10


async def kill_node_mid_put(stage: Stage) -> Outcome:
    """kill -9 of a node with a file store while a put is under way; it starts again."""
    return await _killed(stage, "put")


async def kill_node_mid_get(stage: Stage) -> Outcome:
    """The same while a get is under way."""
    return await _killed(stage, "get")


async def _killed(stage: Stage, kind: str) -> Outcome:
    node = stage.place.node()

    async def fault(load: Load) -> float:
        await load.amid(kind)
        node.kill()
        await start(node)
        return await load.recovery(0)

    return await stage.play(fault, rounds=ROUNDS)


async def pause_node(stage: Stage) -> Outcome:
    """SIGSTOP of a node for twice as long as a request may take."""
    node = stage.place.node()

    async def fault(load: Load) -> float:
        await load.amid("get")
        node.pause()
        await asyncio.sleep(2 * DEADLINE)
        node.resume()
        return await load.recovery(0)

    return await stage.play(fault)


async def bit_flips(stage: Stage) -> Outcome:
    """One bit of a stored file flips: in each part of the head and in each section, of an object of each level.

    The object is a miss, and can be stored again; recovery is from the flip until it comes whole again.
    """
    stage.place.node()
    blobs = stage.place.folder / "node-0" / "data" / "blobs"
    stage.how = f"{sum(len(_parts(numbered(number)[1])) for number in (NEW, NEW + 1))} flips"

    async def fault(load: Load) -> float:
        slowest = 0.0
        for number in (NEW, NEW + 1):
            key, data, _ = numbered(number)
            await load.stored(number)
            (path,) = blobs.glob(f"??/{key.hex()}.kvq")
            for first, size in _parts(data):
                bit = load.random.randrange(8 * size)
                damaged = bytearray(data)
                damaged[first + bit // 8] ^= 1 << bit % 8
                path.write_bytes(damaged)
                begin = time.monotonic()
                if await load.get(number):
                    raise RuntimeError(f"expected bit {bit} from byte {first} to be noticed; the object came whole")
                await load.stored_anew(number)
                slowest = max(slowest, time.monotonic() - begin)
        return slowest

    return await stage.play(fault)


def _parts(data: bytes) -> list[tuple[int, int]]:
    """First byte and length of the prefix, the header, the front index with its checksum, and every section."""
    head = container.parse_head(data)
    begins = [0, PREFIX.size, PREFIX.size + PREFIX.unpack_from(data)[3], head.head_bytes]
    parts = [(begin, end - begin) for begin, end in itertools.pairwise(begins)]
    return parts + [(section.offset, section.length) for section in head.sections]


async def full_disk(stage: Stage) -> Outcome:
    """The disk below a file store is full, then has room again: a small tmpfs, else a limit on the size of files.

    Puts are refused meanwhile and what is stored is served.
    """
    with _disk(stage) as (path, full):
        node = stage.place.node(path=path / "data")

        async def fault(load: Load) -> float:
            with full(node):
                refused = [not await load.put(NEW + at) for at in range(6)]
                if not any(refused):
                    raise RuntimeError("expected a full disk to refuse puts; it took them all")
                await load.recovery(1)
                await asyncio.sleep(stage.seconds / 2)
            recovery = await load.recovery(0)
            for at in range(6):
                await load.stored(NEW + at)
            return recovery

        try:
            return await stage.play(fault)
        finally:
            node.kill()


Full = Callable[[servers.Process], contextlib.AbstractContextManager[None]]


@contextmanager
def _disk(stage: Stage) -> Iterator[tuple[Path, Full]]:
    """A folder, and what fills its disk for a while."""
    folder = stage.place.folder / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    stage.how = f"tmpfs of {DISK_BYTES >> 20} MiB" if mounted else "RLIMIT_FSIZE (no right to mount a tmpfs)"
    try:
        yield (folder, lambda _: _ballast(folder)) if mounted else (folder, _size_limit)
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _ballast(folder: Path) -> Iterator[None]:
    """Fill the disk but for `LEFT_BYTES`: some puts fail at their file, others at the index."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(path, path.stat().st_size - LEFT_BYTES)
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def _size_limit(node: servers.Process) -> Iterator[None]:
    before = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, before)


async def two_nodes_one_killed(stage: Stage) -> Outcome:
    """Two nodes on one store and index in Redis put the same objects at once; one is killed meanwhile.

    The other one can store them once the lease of the dead one is over; the dead one starts again.
    """
    server = stage.place.valkey()
    settings = stage.place.redis_settings(server.url, shared=True)
    _, other = (stage.place.node(*settings) for _ in range(2))
    numbers = iter(range(NEW, NEW + 4 * ROUNDS))

    async def fault(load: Load) -> float:
        same = [next(numbers) for _ in range(4)]
        puts = [asyncio.create_task(load.put(number, node)) for number in same for node in range(2)]
        await asyncio.sleep(load.random.uniform(0, 0.02))
        other.kill()
        await asyncio.gather(*puts)
        for number in same:
            await load.stored(number)
        await start(other)
        return await load.recovery(0, 1)

    stage.how = f"lease {LEASE:g} s"
    return await stage.play(fault, rounds=ROUNDS)
