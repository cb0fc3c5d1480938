"""Repair of stores of every kind: an index that is lost, bytes that are, and nothing taken from nodes that go on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store import Database, FileBlobs, IndexedStore, SqliteIndex
from kvquilt_cache_node.store.opening import describe
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_cache_node.store.repair import Repair, Repaired
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.profile import file as profile_file
from kvquilt_codec.types import Level
from tests import servers
from tests.cache_node.coded import CONTAINER, DATA, DIGEST, KEY, META
from tests.cache_node.remote import prefix_of, redis_blobs, redis_index
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object

OBJECTS = [make_object(make_chunk(5, seed=seed), Level.HIGH, f"doc {seed}", "all") for seed in range(4)]
KEYS = [key for key, _, _ in OBJECTS]
SIZE = len(OBJECTS[0][1])
CAPACITY = 1 << 20


class Parts:
    """Blobs and index of one store, and how its index is lost."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.blobs: Blobs
        self.index: Index

    async def open(self) -> None:
        if self.url:
            self.blobs, self.index = await redis_blobs(self.url, self.folder), await redis_index(self.url, self.folder)
        else:
            self.blobs = FileBlobs(self.folder, fsync=False)
            self.index = SqliteIndex(Database(self.folder / "index.sqlite", iter(range(10**6)).__next__, Lru()))

    async def lose_index(self) -> None:
        await self.index.close()
        if self.url:
            client = await RedisClient.connect(RedisUrl.parse(self.url), RedisOptions())
            assert await RedisIndex.erase(client, prefix_of(self.folder)) > len(OBJECTS)
            await client.close()
            self.index = await redis_index(self.url, self.folder)
        else:
            (self.folder / "index.sqlite").unlink()
            self.index = SqliteIndex(Database(self.folder / "index.sqlite", iter(range(10**6)).__next__, Lru()))

    def store(self) -> IndexedStore:
        return IndexedStore(self.blobs, self.index, CAPACITY)

    async def repair(self, capacity: int = CAPACITY, **options: bool) -> Repaired:
        return await Repair(self.blobs, self.index, capacity, describe, **options).run()

    async def close(self) -> None:
        await self.index.close()
        await self.blobs.close()


@pytest.fixture(params=["file", "redis"])
async def parts(request: pytest.FixtureRequest, valkey: servers.RedisServer, tmp_path: Path) -> AsyncIterator[Parts]:
    """A store that holds `OBJECTS`."""
    parts = Parts(tmp_path, valkey.url if request.param == "redis" else "")
    await parts.open()
    for key, data, meta in OBJECTS:
        await parts.store().put_if_absent(key, data, meta)
    yield parts
    await parts.close()


async def assert_sound(parts: Parts, *numbers: int) -> None:
    """These objects and no others, byte for byte and with all that was said of them; and no bytes besides."""
    store = parts.store()
    assert {info.key for info in await store.list()} == {KEYS[number] for number in numbers}
    assert await parts.index.sizes() == await parts.blobs.sizes() == {KEYS[number]: SIZE for number in numbers}
    assert (await store.usage()).used_bytes == SIZE * len(numbers)
    for number in numbers:
        key, data, meta = OBJECTS[number]
        assert await store.get(key) == [data]
        info = (await store.stat([key]))[key]
        assert info.meta == replace(meta, document_ids=tuple(sorted(meta.document_ids)), fingerprints=b"")
        assert await store.find_variants([meta.chunk_key], FINGERPRINT, PREFIX, 9) == {meta.chunk_key: [info]}
        asked = [digest for _, digest in unpack(meta.fingerprints, meta.tokens)]
        assert len(await store.find_chunks(asked, FINGERPRINT, 9)) >= len(asked) > 0


async def test_of_a_sound_store_nothing_changes(parts: Parts) -> None:
    assert await parts.repair() == Repaired(blobs=4, rows=4)
    await assert_sound(parts, 0, 1, 2, 3)


async def test_a_lost_index_is_rebuilt_from_the_objects_a_profile_among_them(parts: Parts) -> None:
    await parts.store().put_if_absent(bytes.fromhex(DIGEST), DATA, await describe(bytes.fromhex(DIGEST), DATA))
    await parts.store().put_if_absent(KEY, CONTAINER, META)
    await parts.lose_index()
    assert await parts.store().list() == []
    assert await parts.repair() == Repaired(blobs=6, rows=0, adopted=6)
    (info,) = await parts.store().profiles()
    assert (info.digest, info.objects) == (profile_file.digest(DATA), 1)
    assert len((await parts.store().forget([KEY, bytes.fromhex(DIGEST)], [])).deleted) == 2
    await assert_sound(parts, 0, 1, 2, 3)
    assert (await parts.store().forget([], ["doc 1"])).kept_shared == 1
    assert len((await parts.store().forget([], ["all", *(f"doc {number}" for number in range(4))])).deleted) == 4


async def test_what_is_damaged_goes_on_either_side(parts: Parts) -> None:
    await parts.blobs.delete(KEYS[0])
    await parts.blobs.write(KEYS[1], OBJECTS[1][1][:-7])
    await parts.blobs.write(bytes(32), b"no object of ours")
    await parts.blobs.write(b"\x01" * 32, OBJECTS[2][1])
    expected = Repaired(blobs=5, rows=4, dropped=2, deleted=3)
    assert await parts.repair(dry_run=True) == replace(expected, deleted=2), (
        "of a row that still stands no more is said"
    )
    assert len(await parts.blobs.sizes()) == 5
    assert len(await parts.index.sizes()) == 4
    assert await parts.repair() == expected
    await assert_sound(parts, 2, 3)


async def test_the_cap_is_applied(parts: Parts) -> None:
    assert (await parts.repair(2 * SIZE + 1)).evicted == 2
    await assert_sound(parts, 2, 3)
    await parts.lose_index()
    done = await parts.repair(2 * SIZE - 1)
    assert (done.adopted, done.evicted) == (2, 1)
    await parts.lose_index()
    assert (await parts.repair(SIZE - 1)).deleted == 1
    await assert_sound(parts)


async def test_an_interrupted_repair_is_gone_on_with(parts: Parts) -> None:
    await parts.lose_index()

    def interrupt(step: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Repair(parts.blobs, parts.index, CAPACITY, describe).run(interrupt)
    assert len(await parts.store().list()) == 2
    assert await parts.repair() == Repaired(blobs=4, rows=2, adopted=2)
    await assert_sound(parts, 0, 1, 2, 3)


async def test_nodes_that_go_on_meanwhile_lose_nothing(valkey: servers.RedisServer, tmp_path: Path) -> None:
    """Whatever a put or a forget of another node does between any two steps of a repair."""
    parts, other = Parts(tmp_path, valkey.url), Parts(tmp_path, valkey.url)
    await parts.open()
    await other.open()
    store = other.store()

    async def churn() -> None:
        for turn in range(12):
            key, data, meta = OBJECTS[turn % 4]
            await store.put_if_absent(key, data, meta)
            if turn < 8:
                await store.forget([key], [])

    stop = asyncio.Event()
    done: list[Repaired] = []

    async def repairing() -> None:
        while not stop.is_set():
            done.append(await parts.repair())

    repair = asyncio.create_task(repairing())
    await churn()
    stop.set()
    await repair
    assert all((one.deleted, one.adopted, one.evicted) == (0, 0, 0) for one in done), "nothing was ever an orphan"
    await assert_sound(parts, 0, 1, 2, 3)
    await parts.close()
    await other.close()


async def test_what_another_node_is_writing_is_left_to_it(valkey: servers.RedisServer, tmp_path: Path) -> None:
    parts, other = Parts(tmp_path, valkey.url), Parts(tmp_path, valkey.url)
    await parts.open()
    await other.open()
    key, data, meta = OBJECTS[0]
    assert await other.index.reserve(key, SIZE, CAPACITY) == []
    await other.blobs.write(key, data)
    assert await parts.repair() == Repaired(blobs=1, rows=0, left=1)
    await other.index.commit(key, SIZE, meta)
    assert await parts.repair() == Repaired(blobs=1, rows=1)
    await assert_sound(parts, 0)
    await parts.close()
    await other.close()
