"""Somebody meddles with the index in Redis: calls are refused, and never crash; what cannot be used is not opened."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_format import FORMAT
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_codec.errors import BadRequestError, IntegrityError
from tests.cache_node.index_calls import everything, fill
from tests.contracts.index_contract import store
from tests.contracts.store_objects import MODEL, digest_of, fingerprint_of, key_of
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
LEASE = 0.3
Open = Callable[..., Awaitable[RedisIndex]]


def made() -> list[str]:
    """Every key that `fill` makes."""
    held, gone, chunk = key_of(1).decode("latin-1"), key_of(50).decode("latin-1"), digest_of(1).decode("latin-1")
    prefix = digest_of(0).decode("latin-1")
    return [
        *(
            "sizes",
            "sums",
            "order",
            "uses",
            "idle",
            "needed",
            "holds",
            "leases",
            "forms",
            "profiles",
            "used",
            "reserved",
            "objects",
        ),
        *("document:public/doc", "namespace:public"),
        *("departed", "departures", "models", "gone", "expiries", "pins", "reads", "readers"),
        "pinned:public",
        *(f"row:{held}", f"row:{gone}", f"held:{held}", f"chunk:{chunk}public", f"prints:{chunk}public"),
        *(
            f"variants:{prefix}{MODEL}{chunk}public",
            f"print:{fingerprint_of(3).decode('latin-1')}public",
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


@pytest.mark.parametrize("version", [b"1", b"9", b"", b"\xff\xfe"])
async def test_an_index_of_another_format_is_refused(
    open_index: Open, redis: Redis, version: bytes, names: Callable[[str], bytes]
) -> None:
    await store(await open_index(), 1)
    await redis.set(names("version"), version)
    with pytest.raises(IntegrityError, match=f"expected an index of format {FORMAT}") as caught:
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
