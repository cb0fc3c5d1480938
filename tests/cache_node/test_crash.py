"""A process that is killed while it puts: what it acknowledged is there, and nothing half-done is seen by anybody."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_codec import catalog, container
from tests.cache_node.writer import numbered_object
from tests.stack import blobs

ROOT = Path(__file__).parents[2]
COUNT = 40
LARGE, SMALL = 1 << 30, 2 << 20
LARGEST = max(len(numbered_object(seed)[1]) for seed in range(4))

ROUNDS = [(LARGE, 1), (LARGE, 3), (LARGE, 8), (LARGE, 5), (SMALL, 15), (SMALL, 20), (SMALL, 1), (SMALL, 17)]
"""Per round: the cap, and the acknowledgements after which the writer is killed."""


@contextmanager
def writer(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.cache_node.writer", str(folder), *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def killed_after(folder: Path, capacity: int, first_seed: int, acknowledgements: int, pause: float) -> list[bytes]:
    """Keys that a writer acknowledged before it was killed."""
    with writer(folder, capacity, first_seed, COUNT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        time.sleep(pause)  # so that rounds end at different points of a put
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [bytes.fromhex(line) for line in lines]


async def assert_sound_after_reopening(folder: Path, capacity: int) -> dict[bytes, bytes]:
    """All objects of the folder, after checking that index, files and containers agree."""
    store = await open_store(NodeSettings(store="file", path=folder, capacity=capacity, fsync=False, eviction="lru"))
    held: dict[bytes, bytes] = {}
    for info in await store.list():
        (held[info.key],) = await store.get(info.key)
        assert len(held[info.key]) == info.stored_bytes
        head = container.verify(held[info.key])
        assert catalog.key_of(head.header) == info.key
        said = replace(catalog.from_header(head.header), fingerprints=b"")
        assert info.meta == said, "adopted or not, the same description"
    usage = await store.usage()
    await store.close()
    assert list((folder / "tmp").iterdir()) == []
    assert {path.stem: path.stat().st_size for path in blobs(folder)} == {
        key.hex(): len(data) for key, data in held.items()
    }
    assert usage.used_bytes == sum(len(data) for data in held.values()) <= capacity
    return held


def newest(keys: list[bytes], sizes: dict[bytes, int], room: int) -> set[bytes]:
    """Those of the keys, the last one first, that fit into `room`."""
    chosen: set[bytes] = set()
    for key in reversed(keys):
        room -= sizes[key]
        if room < 0:
            break
        chosen.add(key)
    return chosen


async def test_no_kill_at_any_point_loses_or_spoils_what_was_acknowledged(tmp_path: Path) -> None:
    written: dict[bytes, bytes] = {}
    everything: list[bytes] = []
    interrupted = 0
    for number, (capacity, acknowledgements) in enumerate(ROUNDS):
        first = number * COUNT
        keys = killed_after(tmp_path, capacity, first, acknowledgements, number * 0.0007)
        written |= {key: data for key, data, _ in map(numbered_object, range(first, first + COUNT))}
        everything += keys
        interrupted += len(keys) < COUNT
        held = await assert_sound_after_reopening(tmp_path, capacity)
        assert held.items() <= written.items(), "byte for byte what was put"
        if capacity == LARGE:
            assert set(everything) <= held.keys(), "nothing had to go, so all that was acknowledged is there"
            continue
        # Of the puts after the last acknowledgement one may have ended and one more may have made room for itself.
        sizes = {key: len(data) for key, data in written.items()}
        assert newest(keys, sizes, capacity - 2 * LARGEST) <= held.keys(), "only the least recently used went"
        assert sum(map(len, held.values())) > capacity - 3 * LARGEST, "and no more of them than needed"
    assert interrupted, "the writers were killed while they were writing"


POINTS: list[tuple[str, int, int, *tuple[list[int], ...]]] = [
    ("os.mkdir", 1, 0, []),
    ("open", 1, 0, []),
    ("os.rename", 1, 0, []),
    ("open", 2, 0, [0]),  # the folder, to flush the name that the rename gave: adopted, though not acknowledged
    ("os.rename", 2, 1, [0]),
    ("os.remove", 1, 2, []),  # what was evicted stays evicted
    ("os.remove", 2, 2, []),
    ("os.rename", 3, 2, []),
    ("open", 8, 2, [2]),
]
"""Per point: the file operation, how many puts were acknowledged before it, and the objects that may be there after
it."""


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_right_before_a_file_operation(
    tmp_path: Path, point: tuple[str, int, int, *tuple[list[int], ...]]
) -> None:
    """The cap has room for the first two of three objects, or for the third."""
    event, number, acknowledged, *possible = point
    objects = [numbered_object(seed) for seed in (1, 2, 3)]
    sizes = [len(data) for _, data, _ in objects]
    capacity = sizes[0] + sizes[2] - 1
    assert sizes[0] + sizes[1] <= capacity < sizes[1] + sizes[2]
    with writer(tmp_path, capacity, 1, 3, event, number) as process:
        assert process.stdout is not None
        keys = [bytes.fromhex(line) for line in process.stdout]
    assert process.returncode == -signal.SIGKILL
    assert keys == [key for key, _, _ in objects[:acknowledged]]
    held = await assert_sound_after_reopening(tmp_path, capacity)
    assert held in [{objects[index][0]: objects[index][1] for index in there} for there in possible]
