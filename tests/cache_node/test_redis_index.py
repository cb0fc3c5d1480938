"""What nodes that share an index in Redis can rely on, when one of them dies, the server goes, or somebody meddles."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_codec.catalog import GateMeta, ProfileMeta
from kvquilt_codec.errors import BadRequestError, CapacityError, DeadlineError, IntegrityError, UnavailableError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.types import Level
from tests import servers
from tests.cache_node.remote import prefix_of, redis_index
from tests.contracts.index_contract import store
from tests.contracts.store_objects import CAPACITY, MODEL, digest_of, fingerprint_of, key_of, meta_of
from tests.servers import HOST, RedisServer

LEASE = 0.3
Open = Callable[..., Awaitable[RedisIndex]]


@pytest.fixture
async def redis(valkey: RedisServer) -> AsyncIterator[Redis]:
    async with Redis(host=HOST, port=valkey.port) as client:
        yield client


@pytest.fixture
async def open_index(valkey: RedisServer, tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[RedisIndex] = []

    async def opening(policy: Any = "lru", **options: float) -> RedisIndex:
        opened.append(await redis_index(valkey.url, tmp_path, policy, **options))
        return opened[-1]

    yield opening
    for index in opened:
        await index.close()


@pytest.fixture
def names(tmp_path: Path) -> Callable[[str], bytes]:
    """The name of a key of the test's index; characters of Latin-1 are bytes."""
    return lambda name: f"{{{prefix_of(tmp_path)}:index}}:{name}".encode("latin-1")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that comes with a lease's end."""
    give_up = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


# Nodes beside each other


async def test_a_key_is_of_one_node_from_reserve_to_commit_or_release(open_index: Open) -> None:
    one, other = await open_index(), await open_index()
    assert await one.reserve(key_of(1), 100, CAPACITY) == []
    assert await other.reserve(key_of(1), 100, CAPACITY) is None
    await one.release([key_of(1)])
    assert await other.reserve(key_of(1), 100, CAPACITY) == []
    assert await one.reserve(key_of(1), 100, CAPACITY) is None
    await one.release([key_of(1)])
    await other.commit(key_of(1), 100, meta_of())
    assert await one.reserve(key_of(1), 100, CAPACITY) is None, "it is stored"
    assert (await one.usage(CAPACITY)).used_bytes == 100


async def test_nobody_writes_what_another_node_is_deleting(open_index: Open) -> None:
    one, other = await open_index(), await open_index()
    await store(one, 1)
    await one.remove([key_of(1)])
    assert await other.reserve(key_of(1), 100, CAPACITY) is None, "its old bytes are not deleted yet"
    assert await one.may_delete(key_of(1))
    assert not await other.may_delete(key_of(1))
    await one.release([key_of(1)])
    assert await other.reserve(key_of(1), 100, CAPACITY) == []
    assert not await one.may_delete(key_of(1))


async def test_what_a_dead_node_reserved_is_free_again_and_what_it_wrote_is_deleted(open_index: Open) -> None:
    dead, alive = await open_index(lease=LEASE), await open_index(lease=LEASE)
    await dead.reserve(key_of(1), 900, CAPACITY)
    await dead._holds.close()  # as its death does: nothing is prolonged any more
    with pytest.raises(CapacityError):
        await alive.reserve(key_of(2), 500, CAPACITY)
    victims: list[bytes] = []

    async def free() -> bool:
        try:
            victims.extend(await alive.reserve(key_of(2), 500, CAPACITY) or [])
        except CapacityError:
            return False
        return True

    await until(free)
    assert victims == [key_of(1)], "bytes may be there, though no row ever was"
    assert await alive.may_delete(key_of(1))
    with pytest.raises(UnavailableError) as caught:
        await dead.commit(key_of(1), 900, meta_of())
    assert caught.value.reason == "lease_lost"
    assert not await dead.may_delete(key_of(1))
    await alive.commit(key_of(2), 500, meta_of())
    assert await alive.sizes() == {key_of(2): 500}
    assert (await alive.usage(CAPACITY)).used_bytes == 500


async def test_a_node_that_was_paused_past_its_lease_cannot_commit_even_if_nobody_took_over(
    open_index: Open, redis: Redis, names: Callable[[str], bytes]
) -> None:
    paused = await open_index(lease=LEASE)
    await paused.reserve(key_of(1), 900, CAPACITY)
    await paused._holds.close()

    await redis.zadd(names("leases"), {key_of(1): time.time() - 1})
    assert not await paused.may_delete(key_of(1))
    with pytest.raises(UnavailableError):
        await paused.commit(key_of(1), 900, meta_of())


async def test_a_write_may_take_longer_than_a_lease(
    open_index: Open, redis: Redis, names: Callable[[str], bytes]
) -> None:
    writer, other = await open_index(lease=LEASE), await open_index(lease=LEASE)
    await writer.reserve(key_of(1), 900, CAPACITY)
    begin = await redis.zscore(names("leases"), key_of(1))
    assert begin is not None

    async def prolonged() -> bool:
        return float(await redis.zscore(names("leases"), key_of(1)) or 0) > begin + 2 * LEASE

    await until(prolonged)
    with pytest.raises(CapacityError):
        await other.reserve(key_of(2), 500, CAPACITY)
    await writer.commit(key_of(1), 900, meta_of())
    assert await other.sizes() == {key_of(1): 900}


# What goes to make room


async def test_gdsf_keeps_what_is_dear_small_and_used_and_forgets_what_was(open_index: Open) -> None:
    """Priorities are clock + frequency x seconds / bytes; the clock is the priority of the last victim."""
    index = await open_index("gdsf")
    for number, size in ((1, 400), (2, 100), (3, 300), (4, 200)):  # 0.5 s each: 1/800, 1/200, 1/600, 1/400
        await store(index, number, size)
    assert await store(index, 5, 100) == [key_of(1)], "the largest; clock 1/800"
    await index.use([key_of(3)])
    await index.use([key_of(3)])  # 1/800 + 3/600
    assert await store(index, 6, 400) == [key_of(4)], "1/400, which the clock is then"
    assert await store(index, 7, 300) == [key_of(6)], "1/400 + 1/800: the newest, for its size; clock 3/800"
    assert await store(index, 8, 300) == [key_of(2)], "1/200, small, but never used again while the clock went on"


async def test_the_order_of_uses_is_that_of_the_calls_though_the_clock_is_set_back(
    open_index: Open, redis: Redis, names: Callable[[str], bytes]
) -> None:
    index = await open_index()
    await store(index, 1)
    await redis.hset(names("sums"), "now", str(time.time() + 86_400))
    await store(index, 2)
    await index.use([key_of(1)])
    await store(index, 3)
    listed = await index.find()
    assert [info.key for info in listed] == [key_of(3), key_of(1), key_of(2)]
    assert len({info.last_used for info in listed}) == 3


# One round trip


async def test_looking_up_a_hundred_keys_is_one_call_of_the_server(open_index: Open, redis: Redis) -> None:
    index = await open_index()
    for number in range(100):
        await store(index, number, 1, meta_of("doc", chunk=number))
    keys = [key_of(number) for number in range(100)]
    chunks = [digest_of(number) for number in range(100)]
    prints = [fingerprint_of(number) for number in range(100)]
    for look in (
        lambda: index.find(keys),
        lambda: index.use(keys),
        lambda: index.find_variants(chunks, MODEL, digest_of(0), 4),
        lambda: index.find_chunks(prints, MODEL, 4),
    ):
        await look()
        await redis.config_resetstat()
        await look()
        stats = await redis.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 1


# Somebody else's values


async def fill(index: RedisIndex) -> None:
    """One of everything."""
    await store(index, 50, 10, ProfileMeta(MODEL))
    await store(index, 51, 10, GateMeta(MODEL, key_of(50).hex()))
    await store(index, 52, 10, ProfileMeta(MODEL))
    form = StorageForm(Level.HIGH, key_of(50).hex())
    await store(index, 1, 10, meta_of("doc", chunk=1, form=form, fingerprints=[3]))
    await index.reserve(key_of(2), 10, CAPACITY)


async def everything(index: RedisIndex) -> int:
    """Call whatever there is; the number of calls that were refused."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: index.find([key_of(1)]),
        lambda: index.find(),
        lambda: index.find_variants([digest_of(1)], MODEL, digest_of(0), 4),
        lambda: index.find_chunks([fingerprint_of(3)], MODEL, 4),
        lambda: index.profiles(),
        lambda: index.gates(MODEL, key_of(50).hex()),
        lambda: index.sizes(),
        lambda: index.usage(CAPACITY),
        lambda: index.stored_at(key_of(1)),
        lambda: index.may_delete(key_of(1)),
        lambda: index.use([key_of(1), key_of(50)], ["doc", "other"]),
        lambda: index.add_documents(key_of(1), ["doc", "third"]),
        lambda: index.commit(key_of(2), 10, meta_of("doc", chunk=1)),
        lambda: index.reserve(key_of(3), CAPACITY - 20, CAPACITY),
        lambda: index.commit(key_of(3), CAPACITY - 20, meta_of("doc", chunk=1)),
        lambda: index.remove([key_of(1)], ["doc", "other"]),
        lambda: index.release([key_of(1), key_of(3)]),
    ]
    refused = 0
    for call in calls:
        try:
            await call()
        except (IntegrityError, CapacityError, UnavailableError):
            refused += 1
    return refused


def made() -> list[str]:
    """Every key that `fill` makes."""
    held, gone, chunk = key_of(1).decode("latin-1"), key_of(50).decode("latin-1"), digest_of(1).decode("latin-1")
    prefix = digest_of(0).decode("latin-1")
    return [
        *("sizes", "sums", "order", "uses", "idle", "needed", "holds", "leases", "forms", "profiles", "document:doc"),
        *(f"row:{held}", f"row:{gone}", f"held:{held}", f"chunk:{chunk}", f"prints:{chunk}"),
        *(
            f"variants:{chunk}{prefix}{MODEL}",
            f"print:{fingerprint_of(3).decode('latin-1')}",
            f"gates:{key_of(50).hex()}",
        ),
    ]


async def test_no_kind_of_key_is_left_out_below(open_index: Open, redis: Redis, names: Callable[[str], bytes]) -> None:
    await fill(await open_index())
    begin = names("").decode()
    there = {key.decode("latin-1").removeprefix(begin) for key in await redis.keys(begin + "*")}
    assert there >= set(made())
    assert {name.split(":")[0] for name in there} == {name.split(":")[0] for name in made()} | {"version"}


@pytest.mark.parametrize("name", made(), ids=lambda name: name.split(":")[0])
@pytest.mark.parametrize("kind", ["text", "list", "hash", "sorted set"])
async def test_no_foreign_value_does_more_than_refuse_calls(
    open_index: Open, redis: Redis, name: str, kind: str, names: Callable[[str], bytes]
) -> None:
    index = await open_index()
    await fill(index)
    key = names(name)
    await redis.delete(key)
    match kind:
        case "text":
            await redis.set(key, b"\xff\x00 not ours")
        case "list":
            await redis.rpush(key, b"not", b"ours")
        case "hash":
            fields = (b"not ours", key_of(1), key_of(3), b"used", b"kind", b"uses", b"policy", b"reserved", b"now")
            await redis.hset(key, mapping=dict.fromkeys(fields, b"\xff:x"))
        case "sorted set":
            await redis.zadd(key, {b"not ours": float("inf"), key_of(1): 1.0, b"": -1.0})
    await everything(index)


@pytest.mark.parametrize("version", [b"2", b"", b"\xff\xfe"])
async def test_an_index_of_another_format_is_refused(
    open_index: Open, redis: Redis, version: bytes, names: Callable[[str], bytes]
) -> None:
    await store(await open_index(), 1)
    await redis.set(names("version"), version)
    with pytest.raises(IntegrityError, match="expected an index of format 1") as caught:
        await open_index()
    assert caught.value.reason == "unknown_version"


async def test_an_index_that_lost_its_version_is_refused_and_a_new_one_is_made_of_nothing(
    open_index: Open, redis: Redis, names: Callable[[str], bytes]
) -> None:
    await store(await open_index(), 1)
    await redis.delete(names("version"))
    with pytest.raises(IntegrityError, match="format none"):
        await open_index()
    await redis.unlink(*await redis.keys(names("*")))
    assert await (await open_index()).find() == []


async def test_nodes_that_disagree_on_the_policy_are_told(open_index: Open) -> None:
    await open_index("lru")
    with pytest.raises(BadRequestError, match="the policy 'lru' that the index was made with; got 'gdsf'"):
        await open_index("gdsf")


@pytest.mark.parametrize("name", ["", "a}b", "a b", "ä"])
async def test_prefixes_that_would_break_the_keys_are_refused(valkey: RedisServer, name: str) -> None:
    client = await RedisClient.connect(RedisUrl.parse(valkey.url), RedisOptions())
    with pytest.raises(BadRequestError, match="expected a prefix"):
        await RedisIndex.open(client, name, "lru")


async def test_a_server_that_evicts_keys_on_its_own_is_refused(open_index: Open, redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(BadRequestError, match="maxmemory-policy allkeys-lru"):
            await open_index()
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")


# A server that goes


async def test_a_server_that_is_paused_killed_and_started_again(tmp_path: Path) -> None:
    with servers.valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        index = await redis_index(server.url, tmp_path, timeout=0.5)
        await store(index, 1, 100, meta_of("doc"))
        server.process.pause()
        try:
            with pytest.raises(DeadlineError, match=r"within 0\.5 s"):
                await index.find([key_of(1)])
        finally:
            server.process.resume()
        assert len(await index.find([key_of(1)])) == 1
        server.process.kill()
        for call in (index.find([key_of(1)]), index.use([key_of(1)]), index.reserve(key_of(2), 10, CAPACITY)):
            with pytest.raises(UnavailableError):
                await call
        server.process.start()
        assert [info.key for info in await index.find()] == [key_of(1)], "what was acknowledged is there"
        await store(index, 2)
        await index.close()


async def test_when_the_servers_memory_is_full_nothing_is_entered_and_all_else_goes_on(
    valkey: RedisServer, redis: Redis, open_index: Open
) -> None:
    index = await open_index()
    await store(index, 1)
    await store(index, 2)
    await index.remove([key_of(2)])
    await redis.config_set("maxmemory", "1")
    try:
        assert await index.reserve(key_of(3), CAPACITY, CAPACITY) == [key_of(1)], "what makes room may be done"
        with pytest.raises(CapacityError) as caught:
            await index.commit(key_of(3), CAPACITY, meta_of("doc"))
        assert caught.value.reason == "store_full"
        assert await index.may_delete(key_of(2))
        await index.release([key_of(1), key_of(2), key_of(3)])
        await redis.config_set("maxmemory", "0")
        await store(index, 4)
        await redis.config_set("maxmemory", "1")
        assert await index.use([key_of(4)]) == [key_of(4)]
        assert [info.use_count for info in await index.find([key_of(4)])] == [0], "a use that was not counted"
        assert await index.remove([key_of(4)]) == ({key_of(4): 100}, 0)
    finally:
        await redis.config_set("maxmemory", "0")
