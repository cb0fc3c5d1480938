"""A disk that takes no more bytes: the operating system itself refuses (RLIMIT_FSIZE gives EFBIG), in a process apart.

Every scenario runs in a child process, so that the limit is its own; it asserts there, the parent looks at the end.
"""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import IndexedStore, open_store
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.errors import CapacityError, KvquiltError
from kvquilt_codec.types import LayerShape, Level
from tests.codec.samples import make_chunk, make_object

ROOT = Path(__file__).parents[2]
LIMIT = 1 << 20
CAPACITY = 4 << 20
INDEX_IS_FULL = 4096
"""A limit under which a small object's file can be written, but no row of it: the index's log is larger already."""

Made = tuple[bytes, bytes, ObjectMeta]


def large() -> Made:
    made = make_object(make_chunk(600, (LayerShape(8, 64, 64),) * 2), Level.HIGH)
    assert LIMIT < len(made[1]) < CAPACITY
    return made


def small(seed: int) -> Made:
    return make_object(make_chunk(3, seed=seed), Level.HIGH, f"doc {seed}")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The operating system refuses to write past `size` in any file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


async def reopened(folder: Path, capacity: int = CAPACITY) -> IndexedStore:
    return await open_store(NodeSettings(store="file", path=folder, capacity=capacity, fsync=False))


async def refused(call: Awaitable[object]) -> KvquiltError:
    try:
        await call
    except KvquiltError as error:
        return error
    raise AssertionError("expected an error of the tree; the call succeeded")


async def assert_holds(store: IndexedStore, folder: Path, made: list[Made]) -> None:
    usage = await store.usage()
    expected = {key: data for key, data, _ in made}
    assert {info.key for info in await store.list()} == expected.keys()
    assert (usage.objects, usage.used_bytes) == (len(expected), sum(map(len, expected.values())))
    for key, data in expected.items():
        assert await store.get(key) == [data]
    assert len(list((folder / "blobs").glob("??/*.kvq"))) == len(expected)
    assert list((folder / "tmp").iterdir()) == []


async def too_large_for_the_disk(folder: Path) -> None:
    store = await reopened(folder)
    before = [small(1), small(2)]
    for made in before:
        await store.put_if_absent(*made)
    with file_size_limit(LIMIT):
        for _ in range(3):
            error = await refused(store.put_if_absent(*large()))
            assert isinstance(error, CapacityError)
            assert error.reason == "disk_full"
            assert "free some or lower the cap" in str(error)
            await assert_holds(store, folder, before)
        assert await store.put_if_absent(*small(3)) is True
        await assert_holds(store, folder, [*before, small(3)])
    assert await store.put_if_absent(*large()) is True
    await assert_holds(store, folder, [*before, small(3), large()])
    await store.close()


async def no_room_for_the_index(folder: Path) -> None:
    store = await reopened(folder)
    before = [small(seed) for seed in range(300)]
    keys = [key for key, _, _ in before]
    for made in before:
        await store.put_if_absent(*made)
    new = small(9_000)
    assert len(new[1]) < INDEX_IS_FULL < (folder / "index.sqlite-wal").stat().st_size
    with file_size_limit(INDEX_IS_FULL):
        for _ in range(2):
            await refused(store.put_if_absent(*new))
            await refused(store.touch(keys[:1], ["another document"]))
            await refused(store.forget(keys[:1], []))
            await assert_holds(store, folder, before)
        assert await store.put_if_absent(*before[0]) is False
        assert await store.touch(keys) == keys, "more uses than are kept in memory: no reason to fail a read"
        await assert_holds(store, folder, before)
    assert await store.put_if_absent(*new) is True
    assert (await store.forget(keys[:1], [])).deleted == (keys[0],)
    await assert_holds(store, folder, [*before[1:], new])
    await store.close()
    store = await reopened(folder)
    await assert_holds(store, folder, [*before[1:], new])
    await store.close()


async def no_room_for_the_index_to_evict(folder: Path) -> None:
    before = [small(seed) for seed in range(4)]
    store = await reopened(folder, sum(len(data) for _, data, _ in before))
    for made in before:
        await store.put_if_absent(*made)
    with file_size_limit(INDEX_IS_FULL):
        await refused(store.put_if_absent(*small(4)))
        await assert_holds(store, folder, before)
    assert await store.put_if_absent(*small(4)) is True
    await assert_holds(store, folder, [before[0], *before[2:], small(4)])  # the first counts as used: it was spared
    await store.close()


async def no_room_to_open(folder: Path) -> None:
    with file_size_limit(0):
        await refused(reopened(folder))
    store = await reopened(folder)
    await store.put_if_absent(*small(1))
    await store.close()
    with file_size_limit(0):
        await refused(reopened(folder))
    assert list(folder.glob("index.sqlite.damaged-*")) == [], "a full disk is no damage"
    store = await reopened(folder)
    await assert_holds(store, folder, [small(1)])
    await store.close()


def run(scenario: str, folder: str) -> None:
    """Called in the child."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN, "a write beyond the limit is an error, not the end"
    asyncio.run(SCENARIOS[scenario](Path(folder)))


SCENARIOS: dict[str, Callable[[Path], Coroutine[None, None, None]]] = {
    scenario.__name__: scenario
    for scenario in (
        too_large_for_the_disk,
        no_room_for_the_index,
        no_room_for_the_index_to_evict,
        no_room_to_open,
    )
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_full_disk_fails_what_needs_room_and_nothing_else(tmp_path: Path, scenario: str) -> None:
    code = "import sys; from tests.cache_node import test_disk_full; test_disk_full.run(*sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", code, scenario, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
