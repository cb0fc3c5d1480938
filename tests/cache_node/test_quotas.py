"""Floors, shares and caps of namespaces: a noisy one evicts itself first, in both indexes and under every policy."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kvquilt_cache_node.eviction import POLICIES, make_policy
from kvquilt_cache_node.eviction.quotas import Quota, Quotas
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.settings import SHARED_POLICIES, NodeSettings
from kvquilt_cache_node.store import Database, IndexedStore, MemoryBlobs, SqliteIndex, open_store
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_cache_node.store.rooms import Shares
from kvquilt_cache_node.types import NamespaceUsage
from kvquilt_codec.catalog import ProfileMeta
from kvquilt_codec.errors import CapacityError
from tests.cache_node.remote import prefix_of
from tests.contracts.index_contract import store
from tests.contracts.store_objects import CAPACITY, MODEL, data_of, key_of, meta_of, ticking
from tests.servers import RedisServer

PARAMETERS = [*(("sqlite", policy) for policy in POLICIES), *(("redis", policy) for policy in SHARED_POLICIES)]


class Held:
    """An index under quotas, and what it is told."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._next = 0

    async def put(self, namespace: str, size: int) -> list[bytes]:
        """Store a new object; what went for it."""
        self._next += 1
        key = key_of(self._next)
        victims = await self.index.reserve(key, size, CAPACITY, namespace)
        assert victims is not None
        await self.index.commit(key, size, meta_of(chunk=self._next, namespace=namespace))
        await self.index.release(victims)
        return list(victims)

    async def bytes(self) -> Counter[str]:
        found = await self.index.usage_by_namespace()
        infos = await self.index.find()
        counted = {name: NamespaceUsage(0, 0) for name in {info.meta.namespace for info in infos}}
        for info in infos:
            old = counted[info.meta.namespace]
            counted[info.meta.namespace] = NamespaceUsage(old.objects + 1, old.used_bytes + info.stored_bytes)
        assert found == counted, "sums are those of the rows"
        return Counter({name: usage.used_bytes for name, usage in found.items()})


async def opened(kind: str, policy: str, named: Mapping[str, Quota], valkey: RedisServer, folder: Path) -> Held:
    if kind == "sqlite":
        room = Shares(Quotas(named), lambda nbytes: make_policy(policy, nbytes, Random(1)), CAPACITY)
        return Held(SqliteIndex(Database(":memory:", ticking(), room)))
    client = await RedisClient.connect(RedisUrl.parse(valkey.url), RedisOptions())
    return Held(await RedisIndex.open(client, prefix_of(folder), policy, quotas=Quotas(named)))


@pytest.fixture(params=PARAMETERS, ids="-".join)
def parameters(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


async def test_a_noisy_namespace_cannot_push_a_quiet_one_below_its_floor(
    parameters: tuple[str, str], valkey: RedisServer, tmp_path: Path
) -> None:
    held = await opened(*parameters, {"quiet": Quota(floor=300), "*": Quota()}, valkey, tmp_path)
    for _ in range(8):
        await held.put("quiet", 50)
    least = 400
    for number in range(120):
        await held.put("noisy", 20 + number % 37)
        now = await held.bytes()
        assert now.total() <= CAPACITY
        least = min(least, now["quiet"])
    assert least >= 300
    assert now["noisy"] > 500, "what nobody is kept from is used"
    for _ in range(4):
        await held.put("quiet", 50)
    assert (await held.bytes())["quiet"] >= 500, "and it takes its share back, from the one that is above its own"
    await held.index.close()


async def test_shares_are_what_the_settings_say_and_what_is_left_is_everybodys(
    parameters: tuple[str, str], valkey: RedisServer, tmp_path: Path
) -> None:
    held = await opened(*parameters, {"large": Quota(share=3), "small": Quota(share=1)}, valkey, tmp_path)
    for _ in range(200):
        await held.put("small", 10)
    assert (await held.bytes())["small"] == CAPACITY, "nobody else wants it"
    for _ in range(200):
        await held.put("large", 10)
        await held.put("small", 10)
    now = await held.bytes()
    assert abs(now["large"] - 750) <= 20
    assert abs(now["small"] - 250) <= 20
    await held.index.close()


async def test_a_namespaces_own_cap_is_never_exceeded_with_concurrent_writers(
    parameters: tuple[str, str], valkey: RedisServer, tmp_path: Path
) -> None:
    held = await opened(*parameters, {"a": Quota(cap=300)}, valkey, tmp_path)
    await held.put("b", 400)
    seen: list[int] = []
    refused: list[str] = []

    async def write(writer: int) -> None:
        for number in range(10):
            try:
                await held.put("a", 30 + 13 * ((writer + number) % 5))
            except CapacityError as error:
                refused.append(error.reason)
            seen.append((await held.index.usage_by_namespace()).get("a", NamespaceUsage(0, 0)).used_bytes)

    await asyncio.gather(*(write(writer) for writer in range(4)))
    assert 200 < max(seen) <= 300
    assert set(refused) <= {"over_quota"}, "by others' unfinished writes of the namespace"
    assert (await held.bytes())["b"] == 400, "for one that is at its cap nobody else's goes"
    with pytest.raises(CapacityError) as caught:
        await held.put("a", 301)
    assert caught.value.reason == "over_quota"
    await held.index.close()


async def test_what_has_no_room_beside_floors_is_refused_and_nothing_goes(
    parameters: tuple[str, str], valkey: RedisServer, tmp_path: Path
) -> None:
    held = await opened(*parameters, {"a": Quota(floor=600)}, valkey, tmp_path)
    await store(held.index, 1000, 10, ProfileMeta(MODEL))
    for _ in range(6):
        await held.put("a", 100)
    await held.put("b", 300)
    before = await held.bytes()
    with pytest.raises(CapacityError) as caught:
        await held.put("b", 401)
    assert caught.value.reason == "over_share"
    assert await held.bytes() == before
    assert len(await held.put("b", 380)) >= 1
    assert await held.bytes() == {"a": 600, "b": 380}
    await held.index.close()


NAMES = ("a", "b", "c")
quotas = st.fixed_dictionaries(
    {
        name: st.builds(
            Quota,
            st.sampled_from([0, 0, 100, 300]),
            st.sampled_from([0.5, 1.0, 4.0]),
            st.sampled_from([None, None, 350]),
        )
        for name in NAMES
    }
)
puts = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 320)), max_size=40)


async def check(held: Held, named: Mapping[str, Quota], sequence: list[tuple[str, int]]) -> None:
    """What is promised holds after every put of any sequence."""
    largest: Counter[str] = Counter()
    for namespace, size in sequence:
        before = await held.bytes()
        quota = named[namespace]
        protected = sum(min(before[name], named[name].floor) for name in NAMES if name != namespace)
        if size + protected > CAPACITY or (quota.cap is not None and size > quota.cap):
            with pytest.raises(CapacityError):
                await held.put(namespace, size)
            assert await held.bytes() == before, "nothing goes for it"
            continue
        await held.put(namespace, size)
        largest[namespace] = max(largest[namespace], size)
        now = await held.bytes()
        assert now.total() <= CAPACITY
        assert quota.cap is None or now[namespace] <= quota.cap
        for name in set(NAMES) - {namespace}:
            floor = named[name].floor
            if before[name] <= floor:
                assert now[name] == before[name], "who is at its floor loses nothing to others"
            elif now[namespace] > size:  # the putting one had objects of its own left
                assert now[name] >= floor
            else:
                assert now[name] > floor - largest[name]
        if before.total() + size <= CAPACITY and (quota.cap is None or before[namespace] + size <= quota.cap):
            assert now.total() == before.total() + size, "while there is room nothing goes"


@settings(max_examples=40, deadline=None)
@given(named=quotas, sequence=puts, policy=st.sampled_from(POLICIES))
def test_any_puts_keep_floors_and_caps_in_sqlite(
    named: dict[str, Quota], sequence: list[tuple[str, int]], policy: str
) -> None:
    room = Shares(Quotas(named), lambda nbytes: make_policy(policy, nbytes, Random(1)), CAPACITY)
    asyncio.run(check(Held(SqliteIndex(Database(":memory:", ticking(), room))), named, sequence))


@settings(max_examples=25, deadline=None)
@given(named=quotas, sequence=puts, policy=st.sampled_from(SHARED_POLICIES))
def test_any_puts_keep_floors_and_caps_in_redis(
    valkey: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
    named: dict[str, Quota],
    sequence: list[tuple[str, int]],
    policy: str,
) -> None:
    async def run() -> None:
        held = await opened("redis", policy, named, valkey, tmp_path_factory.mktemp("index"))
        await check(held, named, sequence)
        await held.index.close()

    asyncio.run(run())


async def test_a_restart_knows_what_each_namespace_has(tmp_path: Path) -> None:
    settings_of = {"store": "file", "path": tmp_path, "capacity": CAPACITY, "fsync": False, "eviction": "lru"}
    chosen = NodeSettings(**settings_of, namespaces={"a": {"floor": 300}, "*": {"share": 2.0, "cap": 700}})
    opened_store: IndexedStore = await open_store(chosen)
    for number in range(3):
        await opened_store.put_if_absent(key_of(number), data_of(number, 100), meta_of(chunk=number, namespace="a"))
    await opened_store.close()
    opened_store = await open_store(chosen)
    assert await opened_store.usage_by_namespace() == {"a": NamespaceUsage(3, 300)}
    await opened_store.close()


@pytest.mark.parametrize(
    ("namespaces", "message"),
    [
        ({"a/b": {}}, "expected a namespace"),
        ({"a": {"floor": 600}, "b": {"floor": 600}}, "floors of at most"),
        ({"a": {"floor": 300, "cap": 200}}, "at least its floor"),
        ({"a": {"share": 0}}, "greater than 0"),
        ({"a": {"weight": 1}}, "Extra inputs"),
    ],
)
def test_quotas_that_cannot_be_are_refused(namespaces: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeSettings(capacity=1000, namespaces=namespaces)


async def test_without_quotas_nothing_is_kept_for_anybody(redis: Redis, valkey: RedisServer, tmp_path: Path) -> None:
    client = await RedisClient.connect(RedisUrl.parse(valkey.url), RedisOptions())
    held = Held(await RedisIndex.open(client, prefix_of(tmp_path), "lru"))
    assert NodeSettings().quotas is None
    await held.put("a", 600)
    assert await held.put("b", 1000) == [key_of(1)]
    assert await held.bytes() == {"b": 1000}
    await held.index.close()


async def test_blobs_of_what_goes_by_shares_are_deleted() -> None:
    blobs = MemoryBlobs()
    room = Shares(Quotas({"a": Quota(floor=500)}), lambda nbytes: make_policy("lru", nbytes, Random(1)), CAPACITY)
    shared = IndexedStore(blobs, SqliteIndex(Database(":memory:", ticking(), room)), CAPACITY)
    for number in range(30):
        namespace = "a" if number < 5 else "b"
        await shared.put_if_absent(key_of(number), data_of(number, 100), meta_of(chunk=number, namespace=namespace))
    assert sorted(await blobs.sizes()) == sorted(info.key for info in await shared.list())
    assert {key_of(number) for number in range(5)} <= set(await blobs.sizes())
    await shared.close()
