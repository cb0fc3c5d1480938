"""The server of an index goes, comes back, is full, or lets a user do no more than it must."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_index import RedisIndex
from kvquilt_cache_node.store.redis_keys import RedisKeys
from kvquilt_codec.errors import CapacityError, DeadlineError, UnavailableError
from tests import servers
from tests.cache_node.index_calls import everything, fill
from tests.cache_node.remote import redis_index
from tests.contracts.index_contract import store
from tests.contracts.store_objects import CAPACITY, key_of, meta_of
from tests.servers import HOST, RedisServer

ROOT = Path(__file__).parents[2]
LEASE = 0.3
Open = Callable[..., Awaitable[RedisIndex]]


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


async def test_a_user_with_the_rights_that_the_page_on_operations_gives_can_do_everything(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "stores.md").read_text()
    (blobs,) = re.findall(r"^(ACL SETUSER kvquilt on .*)$", page, re.MULTILINE)
    pattern, more = re.findall(r"For `node.index=redis` also `(\S+)` and `([^`]*)`", page)[0]
    with servers.valkey(tmp_path) as server:
        async with Redis(host=HOST, port=server.port) as redis:
            await redis.execute_command(*blobs.replace("PASSWORD", "secret").split(), pattern, *more.split())
        url = server.url.replace("redis://", "redis://kvquilt:secret@")
        client = await RedisClient.connect(RedisUrl.parse(url), RedisOptions())
        index = await RedisIndex.open(client, "kvquilt", "gdsf", lease=LEASE)
        await fill(index)
        assert await everything(index) == 0
        await asyncio.sleep(LEASE)  # so that holds are prolonged
        client = await RedisClient.connect(RedisUrl.parse(url), RedisOptions())
        assert await RedisIndex.erase(client, "kvquilt") > 0
        keys = RedisKeys(client, "kvquilt")
        assert await keys.swap("a", None, b"record") == await keys.get("a") == b"record"
        assert (await keys.names(), await keys.delete("a")) == (["a"], True)
        await client.close()
        await index.close()
