"""What nodes that share an index in Redis can rely on, also when one of them dies."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_codec.errors import CapacityError, UnavailableError
from tests.contracts.index_contract import store
from tests.contracts.store_objects import CAPACITY, MODEL, digest_of, fingerprint_of, key_of, meta_of

ROOT = Path(__file__).parents[2]
LEASE = 0.3
Open = Callable[..., Awaitable[RedisIndex]]


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
    lease = 2.0  # which a busy machine prolongs in time too
    writer, other = await open_index(lease=lease), await open_index(lease=lease)
    await writer.reserve(key_of(1), 900, CAPACITY)
    begin = await redis.zscore(names("leases"), key_of(1))
    assert begin is not None

    async def prolonged() -> bool:
        return float(await redis.zscore(names("leases"), key_of(1)) or 0) > begin + lease

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
