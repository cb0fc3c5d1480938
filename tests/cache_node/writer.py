"""A process that puts objects into a file store until it is killed. Run by `test_crash.py`.

    python -m tests.cache_node.writer FOLDER CAPACITY FIRST_SEED COUNT [EVENT NUMBER]

Prints the key of every acknowledged put. With EVENT and NUMBER it kills itself right before the NUMBERth such file
operation below FOLDER (an audit event of Python: `open`, `os.mkdir`, `os.rename`, `os.remove`), and flushes every put.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.types import LayerShape, Level
from tests.codec.samples import make_chunk, make_object

SHAPES = (LayerShape(4, 32, 32),) * 2


def numbered_object(seed: int) -> tuple[bytes, bytes, ObjectMeta]:
    """The object of a seed: 25 to 250 KiB, the same in every process."""
    return make_object(make_chunk(50 + 150 * (seed % 4), SHAPES, seed=seed), Level.HIGH, f"doc {seed}")


def die_before(event: str, number: int, folder: str) -> None:
    """Have this process killed by the operating system at one point of its work."""
    seen = 0

    def audit(happening: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if happening == event and str(arguments[0]).startswith(folder):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


async def main(folder: str, capacity: str, first: str, count: str, *die: str) -> None:
    """See the module."""
    objects = [numbered_object(seed) for seed in range(int(first), int(first) + int(count))]
    settings = NodeSettings(store="file", path=Path(folder), capacity=int(capacity), fsync=bool(die), eviction="lru")
    store = await open_store(settings)
    if die:
        die_before(die[0], int(die[1]), folder)
    for key, data, meta in objects:
        await store.put_if_absent(key, data, meta)
        sys.stdout.write(key.hex() + "\n")
        sys.stdout.flush()
    sys.stdin.read()  # all done and not killed yet: wait for it


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
