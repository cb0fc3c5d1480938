"""Nodes with tiers as the settings make them: real servers, killed between acknowledgement and flush."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_cache_node.store.opening import describe, open_parts
from kvquilt_cache_node.store.repair import Repair
from kvquilt_codec.errors import NotFoundError, UnavailableError
from kvquilt_codec.types import Level
from kvquilt_rpc.node_client import NodeClient
from tests import servers
from tests.cache_node.calls import DEADLINE, Node, serving
from tests.cache_node.remote import prefix_of, s3_blobs
from tests.cache_node.stacks import until
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.stack import node_process

OBJECTS = [make_object(make_chunk(40, seed=seed), Level.HIGH, f"doc {seed}") for seed in range(4)]


def tiered(s3: servers.S3Server, valkey: servers.RedisServer, folder: Path) -> dict[str, object]:
    prefix = prefix_of(folder)
    names = {"object_key_id": servers.S3_KEY_ID, "object_secret": servers.S3_SECRET, "object_endpoint": s3.endpoint}
    names |= {"object_timeout": 2.0, "object_retries": 0}
    hot = {"hot_store": "redis", "hot_redis_url": valkey.url, "hot_redis_prefix": prefix}
    return {"store": "object", "object_url": f"{s3.url}/{prefix}", "write_mode": "back", **names, **hot}


async def bytes_of(client: NodeClient, key: bytes) -> bytes:
    got = [item async for item in client.get(key, FINGERPRINT, deadline=DEADLINE)]
    return b"".join(item for item in got if isinstance(item, bytes))


async def test_a_node_that_is_killed_between_acknowledgement_and_flush_loses_nothing(
    s3: servers.S3Server, valkey: servers.RedisServer, tmp_path: Path
) -> None:
    settings = {**tiered(s3, valkey, tmp_path), "memory_bytes": 0}
    flags = [word for name, value in settings.items() for word in ("--set", f"node.{name}={value}")]
    kept, forgotten = OBJECTS[:3], OBJECTS[3]
    with node_process(tmp_path, *flags) as (process, address):
        client = NodeClient(address)
        s3.process.pause()
        try:
            for key, data, meta in OBJECTS:
                assert await client.put(key, data, meta, deadline=DEADLINE) is True
            receipt = await client.forget(keys=[forgotten[0]], deadline=DEADLINE)
            assert list(receipt.deleted) == [forgotten[0]]
            for key, data, _ in kept:
                assert await bytes_of(client, key) == data, "served while object storage stands still"
            counters = (await client.status(deadline=DEADLINE)).counters
            assert (counters["queue_entries"], counters["queue_flushed"]) == (4, 0)
            process.kill()
            process.wait(30)
        finally:
            s3.process.resume()
            await client.close()
    with node_process(tmp_path, *flags) as (_, address):
        client = NodeClient(address)
        try:
            for key, data, _ in kept:
                assert await bytes_of(client, key) == data
            with pytest.raises(NotFoundError):
                await bytes_of(client, forgotten[0])
            while (await client.status(deadline=DEADLINE)).counters["queue_entries"]:  # noqa: ASYNC110  another process works it off
                await asyncio.sleep(0.02)
        finally:
            await client.close()
    cold = s3_blobs(s3, tmp_path)
    assert await cold.sizes() == {key: len(data) for key, data, _ in kept}
    for key, data, _ in kept:
        assert await cold.read(key) == [data]
    await cold.close()


async def test_what_is_used_again_comes_from_the_hot_tier_also_after_a_restart(
    s3: servers.S3Server, valkey: servers.RedisServer, tmp_path: Path
) -> None:
    settings = {**tiered(s3, valkey, tmp_path), "memory_bytes": 0}
    key, data, meta = OBJECTS[0]

    async def read_from(node: Node) -> dict[str, int]:
        assert await bytes_of(node.client, key) == data
        return await node.counters()

    async with serving(path=tmp_path, **settings) as node:
        assert await node.client.put(key, data, meta, deadline=DEADLINE) is True
        while (await read_from(node))["hot_hits"] == 0:
            pass
        assert (await node.counters())["hot_bytes"] > len(data)
    async with serving(path=tmp_path, **settings) as node:
        counters = await read_from(node)
        assert counters["hot_hits"] > 0
        assert counters["cold_reads"] == 0
        await node.client.forget(keys=[key], deadline=DEADLINE)
        assert (await node.counters())["hot_bytes"] == 0
        with pytest.raises(NotFoundError):
            await read_from(node)


async def test_a_hot_tier_that_dies_costs_no_request(s3: servers.S3Server, tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "valkey") as valkey:
        settings = {**tiered(s3, valkey, tmp_path), "memory_bytes": 0, "hot_timeout": 0.1}
        async with serving(path=tmp_path, **settings) as node:
            for key, data, meta in OBJECTS:
                assert await node.client.put(key, data, meta, deadline=DEADLINE) is True
            while (await node.counters())["hot_hits"] < 4:
                for key, data, _ in OBJECTS:
                    assert await bytes_of(node.client, key) == data
            for harm in (valkey.process.pause, valkey.process.kill):
                harm()
                for _ in range(3):
                    for key, data, _ in OBJECTS:
                        assert await bytes_of(node.client, key) == data
            assert (await node.counters())["hot_skipped"] > 0
            await node.client.forget(keys=[OBJECTS[0][0]], deadline=DEADLINE)
            with pytest.raises(NotFoundError):
                await bytes_of(node.client, OBJECTS[0][0])


# Repair, and changes of mode


async def test_repair_knows_what_waits(tmp_path: Path) -> None:
    """The index is lost while objects wait in the queue: they are found there, and nothing is flushed meanwhile."""
    cold = tmp_path / "cold"
    settings = NodeSettings(
        store="object", object_url=f"file://{cold}", path=tmp_path / "node", write_mode="back", drain_seconds=0
    )
    store = await open_store(settings)
    await store._blobs._lower._flusher.stop(0)  # nothing gets there any more
    for key, data, meta in OBJECTS:
        assert await store.put_if_absent(key, data, meta) is True
    await store.forget([OBJECTS[3][0]], [])
    await store.close()
    assert not list(cold.rglob("*.kvq"))
    for anew in (False, True):
        blobs, index = await open_parts(settings, anew=anew)
        done = await Repair(blobs, index, 1 << 30, describe).run()
        assert (done.blobs, done.adopted, done.dropped, done.deleted) == (3, 3 if anew else 0, 0, 0)
        assert set(await index.sizes()) == {key for key, _, _ in OBJECTS[:3]}
        await index.close()
        await blobs.close()
    assert not list(cold.rglob("*.kvq"))


async def test_a_node_that_writes_through_works_off_what_an_earlier_one_left(tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    settings = {"store": "object", "object_url": f"file://{cold}", "path": tmp_path / "node", "drain_seconds": 5}
    key, data, meta = OBJECTS[0]
    store = await open_store(NodeSettings(**settings, write_mode="back"))
    await store._blobs._lower._flusher.stop(0)
    await store.put_if_absent(key, data, meta)
    await store.close()
    store = await open_store(NodeSettings(**settings))
    assert await store.get(key) == [data]
    await until(lambda: list(cold.rglob("*.kvq")))
    await store.put_if_absent(OBJECTS[1][0], *OBJECTS[1][1:])
    assert len(list(cold.rglob("*.kvq"))) == 2, "acknowledged by the store itself"
    await store.close()


async def test_one_process_holds_the_queue(tmp_path: Path) -> None:
    settings = NodeSettings(store="object", object_url=f"file://{tmp_path}/cold", path=tmp_path, write_mode="back")
    store = await open_store(settings)
    with pytest.raises(UnavailableError) as caught:
        await open_parts(settings)
    assert caught.value.reason == "store_locked"
    await store.close()


# Settings


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"store": "memory", "hot_store": "file"}, "below a hot tier"),
        ({"store": "memory", "write_mode": "back"}, "below a hot tier"),
        ({"hot_store": "redis"}, "hot_redis_url"),
        ({"hot_store": "redis", "redis_url": "redis://h", "hot_redis_prefix": "kvquilt"}, "hot_redis_prefix"),
        ({"hot_store": "redis", "hot_redis_url": "http://u:hidden@h"}, "expected a Redis URL"),
        ({"hot_store": "tape"}, "memory"),
        ({"hot_eviction": "best"}, "hit-density"),
        ({"write_mode": "sideways"}, "through"),
        ({"queue_entries": 0}, "queue_entries"),
        (
            {"store": "redis", "redis_url": "redis://h", "index": "redis", "eviction": "lru", "write_mode": "back"},
            "node.index=sqlite",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        NodeSettings(**changed)
    assert "hidden" not in str(caught.value.errors(include_input=False))
