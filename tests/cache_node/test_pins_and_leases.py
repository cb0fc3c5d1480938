"""What eviction leaves alone: pinned objects, and objects that are being read; and what it costs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from kvquilt_cache_node.eviction import POLICIES, make_policy
from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.index_types import Lease, Pin
from kvquilt_cache_node.rules import StayRules
from kvquilt_cache_node.store import Database, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_codec.catalog import GateMeta, ProfileMeta
from kvquilt_codec.errors import BadRequestError, CapacityError, NotFoundError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.types import Level
from tests import servers
from tests.cache_node.calls import CONTAINER, DEADLINE, KEY, META, serving
from tests.cache_node.remote import pass_time, redis_blobs, redis_index
from tests.contracts.index_contract import store as enter
from tests.contracts.store_objects import CAPACITY, MODEL, data_of, key_of, keys_in, meta_of, put, ticking

Open = Callable[..., Awaitable[RedisIndex]]


@pytest.mark.parametrize("policy", POLICIES)
async def test_no_policy_evicts_what_is_pinned_or_being_read(policy: str) -> None:
    index = SqliteIndex(Database(":memory:", ticking(), make_policy(policy, CAPACITY, Random(3))))
    store = IndexedStore(MemoryBlobs(), index, CAPACITY, StayRules(read_lease=1e6))
    for number in range(10):
        await put(store, number, 100)
    await store.pin([key_of(number) for number in (2, 5, 7)], [])
    async with store.reading(key_of(4)) as source:
        for number in range(10, 40):
            await put(store, number, 100)
            assert {2, 4, 5, 7} <= set(await keys_in(store))
        assert await source.read() == [data_of(4, 100)]
    await store.unpin([key_of(number) for number in (2, 5, 7)], [])
    assert await put(store, 40, CAPACITY) is True
    assert await keys_in(store) == [40], "all of them can go again"
    await store.close()


async def test_pins_never_fill_the_store_and_a_full_one_says_what_to_do() -> None:
    store = IndexedStore(MemoryBlobs(), SqliteIndex(Database(":memory:", ticking(), Lru())), CAPACITY, StayRules())
    for number in range(10):
        await put(store, number, 100, "doc" if number < 6 else "other")
    with pytest.raises(CapacityError, match="at most 500 bytes of pinned objects; 0 are pinned") as caught:
        await store.pin([], ["doc"])
    assert caught.value.reason == "pins_full"
    receipt = await store.pin([key_of(number) for number in range(5)], [])
    assert (len(receipt.keys), receipt.pinned_bytes, receipt.limit_bytes) == (5, 500, 500)
    assert (await store.pin([key_of(0)], [])).pinned_bytes == 500, "again is no more"
    with pytest.raises(CapacityError, match="unpin"):
        await put(store, 20, 501)
    assert await put(store, 20, 500) is True
    assert (await store.forget([key_of(number) for number in range(5)], [])).deleted_bytes == 500, "forgetting wins"
    assert (await store.usage()).pinned_bytes == 0
    await store.close()


async def test_a_batch_of_pins_that_does_not_fit_pins_nothing(open_index: Open) -> None:
    index = await open_index()
    for number in range(300):
        await enter(index, number, 1, meta_of("doc", chunk=number))
    await index.pin([key_of(7)], [], Pin(1000))
    with pytest.raises(CapacityError, match="unpin some"):
        await index.pin([], ["doc"], Pin(299))
    assert (await index.usage(CAPACITY)).pinned_bytes == 1, "what was pinned before still is"
    assert len(await index.pin([], ["doc"], Pin(300))) == 300
    assert len(await index.unpin([], ["doc"])) == 300


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_what_a_pinned_object_is_coded_with_stays_too(open_index: Open, kind: str) -> None:
    index = await open_index() if kind == "redis" else SqliteIndex(Database(":memory:", ticking(), Lru()))
    form = StorageForm(Level.HIGH, key_of(50).hex())
    await enter(index, 50, 400, ProfileMeta(MODEL))
    await enter(index, 51, 10, GateMeta(MODEL, key_of(50).hex()))
    await enter(index, 1, 400, meta_of(form=form))
    await index.pin([key_of(1)], [], Pin(500))
    with pytest.raises(CapacityError):
        await index.reserve(key_of(2), 500, CAPACITY)
    assert {key_of(50), key_of(51), key_of(1)} <= set(await index.sizes())
    await index.release([key_of(2)])
    assert await index.reserve(key_of(2), 100, CAPACITY) == []
    if kind == "sqlite":
        await index.close()


# Readers, seen by all nodes


async def test_what_one_node_reads_another_does_not_evict_and_a_dead_reader_holds_it_for_its_lease(
    valkey: servers.RedisServer, tmp_path: Path
) -> None:
    one, other = [
        IndexedStore(await redis_blobs(valkey.url, tmp_path), await redis_index(valkey.url, tmp_path), CAPACITY)
        for _ in range(2)
    ]
    for number in range(10):
        await put(one, number, 100)
    dead = one.reading(key_of(0))
    await (await dead.__aenter__()).read()  # and its process is gone
    for number in range(1, 10):
        await one.touch([key_of(number)])
    await put(other, 10, 100)
    assert 0 in await keys_in(other)
    assert 1 not in await keys_in(other)
    await pass_time(other._index, 11)
    await put(other, 11, 100)
    assert 0 not in await keys_in(other), "the oldest, and its lease is over"
    await dead.__aexit__(None, None, None)
    await one.close()
    await other.close()


async def test_forgetting_wins_over_a_reader_and_no_new_read_begins(
    valkey: servers.RedisServer, tmp_path: Path
) -> None:
    store = IndexedStore(await redis_blobs(valkey.url, tmp_path), await redis_index(valkey.url, tmp_path), CAPACITY)
    await put(store, 1, 100)
    async with store.reading(key_of(1)) as source:
        assert await source.read([(0, 10)]) == [data_of(1, 100)[:10]]
        assert len((await store.forget([key_of(1)], [])).deleted) == 1
        with pytest.raises(NotFoundError):
            await source.read([(10, 20)])
        with pytest.raises(NotFoundError):
            await store.get(key_of(1))
    await store.close()


async def test_leases_are_bounded_in_number_and_bytes(open_index: Open) -> None:
    redis, sqlite = await open_index(), SqliteIndex(Database(":memory:", ticking(), Lru()))
    for index in (redis, sqlite):
        for number in range(4):
            await enter(index, number, 250, meta_of(chunk=number))
        for number in range(4):
            await index.use([key_of(number)], (), None, Lease(1e6, CAPACITY // 4))
        victims = await index.reserve(key_of(9), 750, CAPACITY)
        assert victims == [key_of(1), key_of(2), key_of(3)], "only the first had room for its lease"
        await index.deleted(victims)
        await index.release([key_of(9)])
        assert await index.reserve(key_of(9), 900, CAPACITY) == [key_of(0)], "rather than refuse a put"
    await sqlite.close()


async def test_a_read_asks_the_index_in_redis_once(open_index: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    index = await open_index()
    store = IndexedStore(MemoryBlobs(), index, CAPACITY)
    await put(store, 1, 100)
    asked: list[str] = []
    run = index._scripts.run

    async def counting(name: str, *arguments: object) -> object:
        asked.append(name)
        return await run(name, *arguments)

    monkeypatch.setattr(index._scripts, "run", counting)
    for _ in range(3):
        async with store.reading(key_of(1)) as source:
            for part in ([(0, 10)], [(0, 50)], [(50, 100)]):
                await source.read(part)
    assert asked == ["use"] * 3, "the lease, its end and the use are one call, as the use alone was"


# Through a node


async def test_a_node_pins_by_key_and_by_document_and_its_status_says_how_much(tmp_path: Path) -> None:
    async with serving("file", tmp_path, capacity=2 * len(CONTAINER) + 10, sweep_seconds=0.05) as node:
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        for _ in range(2):
            receipt = await node.client.pins.pin(documents=["a document"], deadline=DEADLINE)
            assert (receipt.keys, receipt.pinned_bytes) == ((KEY,), len(CONTAINER))
        assert (await node.client.status(deadline=DEADLINE)).pinned_bytes == len(CONTAINER)
        assert (await node.client.stat([KEY], deadline=DEADLINE))[KEY].pinned is True
        assert (await node.client.pins.unpin(keys=[KEY, bytes(32)], deadline=DEADLINE)).keys == (KEY,)
        assert (await node.client.pins.unpin(keys=[KEY], deadline=DEADLINE)).keys == ()
        assert (await node.client.pins.pin(keys=[bytes(32)], deadline=DEADLINE)).keys == ()
        for seconds in (-1.0, float("nan"), 1e12):
            with pytest.raises(BadRequestError, match="TTL"):
                await node.client.pins.pin(keys=[KEY], seconds=seconds, deadline=DEADLINE)
    async with serving("memory", capacity=len(CONTAINER) + 10) as node:
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        with pytest.raises(CapacityError, match=r"node\.pinned_fraction"):
            await node.client.pins.pin(keys=[KEY], deadline=DEADLINE)
