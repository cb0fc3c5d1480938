"""Times to live: what clocks, restarts, lost indexes, probes and other nodes' memory make of them."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.rules import StayRules
from kvquilt_cache_node.store import Database, FileBlobs, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.store.aging import Age
from kvquilt_cache_node.store.opening import describe
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_cache_node.store.repair import Repair
from kvquilt_codec.errors import BadRequestError, IntegrityError, NotFoundError
from kvquilt_codec.lifetime import Lifetime, LifetimePolicy, Ttl, from_attributes, to_attributes
from kvquilt_codec.types import Level
from tests import servers
from tests.cache_node.calls import CHUNK, DEADLINE, serving
from tests.cache_node.remote import pass_time, prefix_of, redis_index
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object
from tests.contracts.index_contract import store as enter
from tests.contracts.store_objects import CAPACITY, MODEL, TTL, Ticking, data_of, digest_of, key_of, meta_of, ticking

Open = Callable[..., Awaitable[RedisIndex]]


def opened(clock: Ticking, policy: LifetimePolicy | None = None) -> IndexedStore:
    rules = StayRules(policy or LifetimePolicy())
    return IndexedStore(MemoryBlobs(), SqliteIndex(Database(":memory:", clock, Lru())), CAPACITY, rules)


async def put(store: IndexedStore, number: int, **stay: object) -> bool:
    return await store.put_if_absent(key_of(number), data_of(number, 100), meta_of(chunk=number, **stay))


async def there(store: IndexedStore) -> set[int]:
    return {int.from_bytes(info.key, "little") for info in await store.list()}


# Clocks


steps = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e5)), min_size=1, max_size=20)


@given(steps)
def test_age_never_goes_back_and_at_least_the_time_passes_that_really_does(jumps: list[tuple[float, float]]) -> None:
    wall, monotonic = 1e9, 50.0
    age = Age(lambda: wall, lambda: monotonic)
    first = last = age()
    real = 0.0
    for jump, passed in jumps:
        wall, monotonic, real = wall + jump + passed, monotonic + passed, real + passed
        now = age()
        assert now >= last
        assert now - first >= real - 1e-3, "what lives too long would be served"
        last = now


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_a_clock_that_is_set_back_while_no_process_runs_takes_back_nothing_that_had_passed(
    jump: float, ran: float
) -> None:
    wall = 1e9
    before = Age(lambda: wall, lambda: 0.0)
    wall += ran
    known = before(), before.state[1]
    wall += jump
    after = Age(lambda: wall, lambda: 0.0, known)
    assert after() == pytest.approx(known[0] + max(0.0, jump), abs=1e-3)


async def test_a_server_whose_clock_is_set_back_prolongs_nothing(open_index: Open) -> None:
    index = await open_index()
    await enter(index, 1, 100, meta_of(ttl=60.0))
    scripts = index._scripts
    ahead = time.time() + 10_000  # as if the clock had been there when it was looked at last
    await scripts._client.call("HSET", f"{scripts.prefix}:sums", "age", repr(ahead - 1e4 + 30), "wall", repr(ahead))
    assert await index.stored(key_of(1)) is not None
    await index.overdue(10)
    await pass_time(index, 31)
    assert await index.stored(key_of(1)) is None
    assert await index.overdue(10) == [key_of(1)]


# What is a use, and what is not


async def test_probing_renews_nothing_and_a_use_does() -> None:
    clock = ticking()
    store = opened(clock)
    for number in range(5):
        await put(store, number, ttl=TTL, renewed=True)
    await put(store, 5, ttl=TTL)
    clock.now += 0.6 * TTL
    await store.touch([key_of(0), key_of(5)])
    async with store.reading(key_of(1)) as source:
        assert await source.read() == [data_of(1, 100)]
    await store.stat([key_of(2)])
    await store.list()
    await store.find_variants([digest_of(3)], MODEL, digest_of(0), 4)
    assert await put(store, 4, ttl=2 * TTL) is False, "nor does a put that finds it there"
    clock.now += 0.6 * TTL
    assert await there(store) == {0, 1}, "a fixed TTL is not renewed"
    clock.now += 0.6 * TTL
    assert await there(store) == set()
    with pytest.raises(NotFoundError):
        await store.get(key_of(0))
    assert await put(store, 0) is True, "and it can be stored again"
    assert await store.sweep() is False
    assert (await store.usage()).objects == 1
    await store.close()


async def test_what_a_node_allows_is_what_holds() -> None:
    clock = ticking()
    store = opened(clock, LifetimePolicy(default=2 * TTL, most=3 * TTL))
    await put(store, 0)
    await put(store, 1, ttl=9 * TTL)
    await put(store, 2, ttl=TTL)
    expires = {info.key: info.expires for info in await store.list()}
    assert all(time is not None for time in expires.values())
    for passed, left in ((1, {0, 1}), (2, {1}), (3, set())):
        clock.now += TTL
        assert await there(store) == left, passed
    await store.close()
    unlimited = LifetimePolicy()
    assert unlimited.of(None, 0.0) is None
    assert unlimited.of(Lifetime(5.0, True, 9.0), 0.0) == Lifetime(5.0, True, 9.0)
    assert LifetimePolicy(most=3.0).of(None, 10.0) == Lifetime(3.0, False, 13.0)
    assert LifetimePolicy(most=3.0).of(Lifetime(5.0, True, 11.0), 10.0) == Lifetime(3.0, True, 11.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1.1e9])
def test_a_ttl_that_cannot_be_is_refused(seconds: float) -> None:
    with pytest.raises(BadRequestError, match="TTL"):
        Ttl(seconds)
    whole = to_attributes(Lifetime(5.0, False, 10.0))
    with pytest.raises(IntegrityError, match="TTL"):
        from_attributes(whole | {"ttl_seconds": repr(seconds)})
    for name in whole:
        with pytest.raises(IntegrityError):
            from_attributes({other: text for other, text in whole.items() if other != name})
    assert from_attributes(whole) == Lifetime(5.0, False, 10.0)


# Restarts and lost indexes


async def test_a_restart_forgets_no_ttl_and_no_pin(tmp_path: Path) -> None:
    clock = ticking()

    def reopened() -> IndexedStore:
        index = SqliteIndex(Database(tmp_path / "index.sqlite", clock, Lru()))
        return IndexedStore(FileBlobs(tmp_path, fsync=False), index, CAPACITY)

    store = reopened()
    await put(store, 0, ttl=TTL)
    await put(store, 1, ttl=2 * TTL, renewed=True)
    await put(store, 2)
    await put(store, 3, ttl=TTL)
    assert (await store.pin([key_of(2), key_of(3)], [])).pinned_bytes == 200
    await store.close()
    clock.now += 1.5 * TTL
    store = reopened()
    assert await there(store) == {1, 2, 3}, "3 is kept by its pin"
    await store.touch([key_of(1)])
    await store.close()
    clock.now += 1.5 * TTL
    store = reopened()
    assert await there(store) == {1, 2, 3}
    assert await store.put_if_absent(key_of(9), data_of(9, 800), meta_of()) is True
    assert await there(store) == {2, 3, 9}, "pinned objects stay"
    assert (await store.unpin([key_of(3)], [])).pinned_bytes == 100
    assert await there(store) == {2, 9}, "its TTL had ended long ago"
    await store.close()


async def test_an_index_that_is_lost_brings_back_nothing_that_has_expired_and_nothing_for_good(tmp_path: Path) -> None:
    now = time.time()
    lives = [Lifetime(50.0, False, now - 1), Lifetime(50.0, True, now - 1), Lifetime(1e4, False, now + 40), None]
    objects = [
        make_object(make_chunk(5, seed=seed), Level.HIGH, "doc", lifetime=life) for seed, life in enumerate(lives)
    ]
    blobs = FileBlobs(tmp_path, fsync=False)
    for key, data, _ in objects:
        await blobs.write(key, data)
    index = SqliteIndex(Database(":memory:", time.time, Lru()))
    done = await Repair(blobs, index, 1 << 20, describe, LifetimePolicy(default=500.0)).run()
    assert (done.adopted, done.deleted) == (2, 2)
    expires = {info.key: (info.expires or 0.0) - now for info in await index.find()}
    assert expires[objects[2][0]] == pytest.approx(40, abs=30), "when its writer said, not its TTL from now on"
    assert expires[objects[3][0]] == pytest.approx(500, abs=30), "what never had one gets the node's"
    await index.close()
    await blobs.close()


# Through a node


async def test_a_ttl_goes_with_a_put_as_container_or_as_tensors(tmp_path: Path) -> None:
    lifetime = Ttl(300.0, renewed=True).from_now(time.time())
    key, container, meta = make_object(CHUNK, Level.HIGH, "doc", lifetime=lifetime)
    async with serving("file", tmp_path) as node:
        with pytest.raises(BadRequestError, match="agree with the container's header"):
            await node.client.put(key, container, replace(meta, lifetime=None), deadline=DEADLINE)
        assert await node.client.put(key, container, meta, deadline=DEADLINE) is True
        first = (await node.client.stat([key], deadline=DEADLINE))[key].expires
        await node.client.forget(keys=[key], deadline=DEADLINE)
        assert await node.client.put_tensors(key, CHUNK, meta, deadline=DEADLINE) is True
        again = (await node.client.stat([key], deadline=DEADLINE))[key].expires
        for expires in (first, again):
            assert expires == pytest.approx(time.time() + 300, abs=60)


async def test_what_expired_is_not_served_from_another_nodes_memory(
    valkey: servers.RedisServer, tmp_path: Path
) -> None:
    lifetime = Ttl(5000.0).from_now(time.time())
    key, container, meta = make_object(CHUNK, Level.HIGH, lifetime=lifetime)
    options = {
        "redis_url": valkey.url,
        "redis_prefix": prefix_of(tmp_path),
        "index": "redis",
        "eviction": "lru",
        "sweep_seconds": 600,
    }
    async with serving("redis", tmp_path, **options) as one, serving("redis", tmp_path, **options) as other:
        await one.client.put(key, container, meta, deadline=DEADLINE)

        async def read() -> bytes:
            pieces = [piece async for piece in other.client.get(key, FINGERPRINT, deadline=DEADLINE)]
            return b"".join(piece for piece in pieces if isinstance(piece, bytes))

        for _ in range(3):
            assert await read() == container
        assert (await other.counters())["memory_hits"] > 0
        index = await redis_index(valkey.url, tmp_path)
        await pass_time(index, 6000)
        with pytest.raises(NotFoundError):
            await read()
        assert (await other.counters())["memory_bytes"] == 0
        assert await other.client.find_variants([meta.chunk_key], FINGERPRINT, PREFIX, deadline=DEADLINE) == {}
        await index.close()
