"""Two nodes that share blobs and index: what one does the other sees, and what one's death leaves the other clears."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from kvquilt_cache_node.store import IndexedStore
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import CapacityError, NotFoundError
from tests import servers
from tests.cache_node.remote import redis_blobs, redis_index
from tests.contracts.store_objects import CAPACITY, assert_sound, data_of, key_of, keys_in, put

ROOT = Path(__file__).parents[2]
LEASE = 0.5


class WatchedBlobs:
    """Blobs that know how many bytes of all nodes are on the medium, and do something before a read if told to."""

    bytes_there: dict[bytes, int]

    def __init__(self, blobs: RedisBlobs, bytes_there: dict[bytes, int]) -> None:
        self._blobs = blobs
        self.bytes_there = bytes_there
        self.before_read: Callable[[], Awaitable[object]] | None = None
        self.most = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._blobs, name)

    async def write(self, key: bytes, data: bytes) -> None:
        self.bytes_there[key] = len(data)
        self.most = max(self.most, sum(self.bytes_there.values()))
        await self._blobs.write(key, data)

    async def delete(self, key: bytes) -> None:
        await self._blobs.delete(key)
        self.bytes_there.pop(key, None)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        hook, self.before_read = self.before_read, None
        try:
            return await self._blobs.read(key, ranges)
        finally:
            if hook is not None:
                await hook()


@pytest.fixture
async def nodes(valkey: servers.RedisServer, tmp_path: Path) -> AsyncIterator[list[IndexedStore]]:
    there: dict[bytes, int] = {}
    opened = [
        IndexedStore(
            WatchedBlobs(await redis_blobs(valkey.url, tmp_path), there),
            await redis_index(valkey.url, tmp_path, lease=LEASE),
            CAPACITY,
        )
        for _ in range(2)
    ]
    yield opened
    for store in opened:
        await store.close()


async def test_what_one_node_stores_the_other_serves_and_what_it_forgets_is_a_miss_there(
    nodes: list[IndexedStore],
) -> None:
    one, other = nodes
    assert await put(one, 1, 100, "doc") is True
    assert await other.get(key_of(1)) == [data_of(1, 100)]
    assert await put(other, 1, 100, "also") is False
    assert (await one.forget([], ["doc"])).kept_shared == 1
    assert (await other.forget([], ["also"])).deleted == (key_of(1),)
    with pytest.raises(NotFoundError):
        await one.get(key_of(1))
    assert await keys_in(one) == []


async def test_the_cap_holds_for_index_and_bytes_under_puts_of_the_same_and_of_other_chunks_on_two_nodes(
    nodes: list[IndexedStore],
) -> None:
    seen: list[int] = []
    stored: list[int] = []

    async def write(node: IndexedStore, numbers: Sequence[int]) -> None:
        for number in numbers:
            try:
                if await put(node, number, 50 + 37 * (number % 7)):
                    stored.append(number)
            except CapacityError:
                pass  # others' unfinished writes fill the cap
            seen.append((await node.usage()).used_bytes)

    same = [[*range(1, 13)], [*range(12, 0, -1)]]
    own = [[*range(100, 112)], [*range(200, 212)]]
    await asyncio.gather(*(write(nodes[at % 2], numbers) for at, numbers in enumerate([*same, *own, *same])))
    assert max(seen) <= CAPACITY
    assert len(stored) > 24, "most of them found room"
    for node in nodes:
        await assert_sound(node)
    blobs: WatchedBlobs = nodes[0]._blobs
    listed = {info.key: info.stored_bytes for info in await nodes[0].list()}
    assert await blobs.sizes() == blobs.bytes_there == listed, "no bytes without a row, no row without bytes"
    assert max(node._blobs.most for node in nodes) <= CAPACITY + 50 + 37 * 6, "a victim's bytes may go a moment later"


async def test_of_puts_of_one_chunk_on_two_nodes_one_stores(nodes: list[IndexedStore]) -> None:
    results = await asyncio.gather(*(put(nodes[at % 2], 1, 900, f"doc {at}") for at in range(8)))
    assert sorted(results) == [False] * 7 + [True]
    (info,) = await nodes[0].list()
    assert set(info.meta.document_ids) == {f"doc {at}" for at in range(8)}
    await assert_sound(nodes[1])


async def test_a_lost_blob_is_a_miss_that_drops_its_row(nodes: list[IndexedStore]) -> None:
    one, other = nodes
    await put(one, 1)
    await one._blobs.delete(key_of(1))
    with pytest.raises(NotFoundError):
        await other.get(key_of(1))
    assert await keys_in(one) == []
    assert await put(one, 1) is True


async def test_a_read_that_misses_while_another_node_stores_the_object_anew_drops_no_row(
    nodes: list[IndexedStore],
) -> None:
    one, other = nodes

    async def again() -> None:
        await one.forget([key_of(1)], [])
        await put(one, 1)

    await put(one, 1)
    await one._blobs.delete(key_of(1))
    other._blobs.before_read = again  # after the bytes were looked for, before their row is
    assert await other.get(key_of(1)) == [data_of(1, 100)]
    await one._blobs.delete(key_of(1))

    async def looked() -> None:
        other._blobs.before_read = again  # after the second look

    other._blobs.before_read = looked
    with pytest.raises(NotFoundError):
        await other.get(key_of(1))
    assert await keys_in(other) == [1], "the row that is there now is of another storing"
    await assert_sound(other)


class Writer:
    """The process of `shared_writer.py`."""

    def __init__(self, url: str, folder: Path, number: int, size: int) -> None:
        arguments = [url, folder, CAPACITY, LEASE, number, size]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cache_node.shared_writer", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    async def said(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


@pytest.mark.parametrize("until", ["reserved", "written"])
async def test_a_node_killed_between_reserve_and_commit_leaves_neither_a_reservation_nor_bytes(
    valkey: servers.RedisServer, tmp_path: Path, nodes: list[IndexedStore], until: str
) -> None:
    store = nodes[0]
    await put(store, 1, 100)
    with Writer(valkey.url, tmp_path, 2, 800) as writer:
        while await writer.said() != until:
            writer.go_on()
    assert (await store.usage()).used_bytes == 900, "nobody knows yet"
    with pytest.raises(CapacityError):
        await put(store, 3, 300)
    while True:
        try:
            assert await put(store, 3, 300) is True
            break
        except CapacityError:
            await asyncio.sleep(LEASE / 5)
    assert await keys_in(store) == [3, 1]
    assert await store._blobs.sizes() == {key_of(1): 100, key_of(3): 300}, "what the dead one had written is deleted"
    await assert_sound(store)
    assert await put(store, 2, 600) is True


async def test_a_node_that_is_paused_past_its_lease_spoils_nothing_when_it_goes_on(
    valkey: servers.RedisServer, tmp_path: Path, nodes: list[IndexedStore]
) -> None:
    store = nodes[0]
    with Writer(valkey.url, tmp_path, 2, 800) as writer:
        assert await writer.said() == "reserved"
        writer.process.send_signal(signal.SIGSTOP)
        try:
            assert await put(store, 2, 800) is True, "after the lease of the other one has run out"
        finally:
            writer.process.send_signal(signal.SIGCONT)
        writer.go_on()
        assert await writer.said() == "written"
        writer.go_on()
        assert await writer.said() == "stored", "by whom does not matter"
    assert await store.get(key_of(2)) == [data_of(2, 800)]
    await assert_sound(store)
