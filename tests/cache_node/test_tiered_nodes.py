"""Nodes with memory in front of their stores: how much, what it serves, and what is forgotten on another node."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import NotFoundError
from tests import servers
from tests.cache_node.calls import CONTAINER, DEADLINE, KEY, META, Node, serving
from tests.cache_node.remote import prefix_of
from tests.codec.samples import FINGERPRINT


def test_how_much_memory_there_is_unless_it_is_said(tmp_path: Path) -> None:
    places = {"redis_url": "redis://h", "object_url": "s3://b", "path": tmp_path}
    sizes = {store: NodeSettings(store=store, **places).memory_tier for store in ("file", "memory", "redis", "object")}
    assert sizes == {"file": 0, "memory": 0, "redis": 512 << 20, "object": 512 << 20}
    assert NodeSettings(store="file", memory_bytes="3MiB").memory_tier == 3 << 20
    assert NodeSettings(store="redis", memory_bytes=0, **places).memory_tier == 0
    for wrong in (-1, "much"):
        with pytest.raises(ValidationError, match="memory_bytes"):
            NodeSettings(store="file", memory_bytes=wrong)


async def container_of(node: Node) -> bytes:
    got = [item async for item in node.client.get(KEY, FINGERPRINT, deadline=DEADLINE)]
    return b"".join(item for item in got if isinstance(item, bytes))


async def test_what_one_node_forgets_another_ones_memory_does_not_serve(
    valkey: servers.RedisServer, tmp_path: Path
) -> None:
    settings = {"redis_url": valkey.url, "redis_prefix": prefix_of(tmp_path), "index": "redis", "eviction": "lru"}
    async with serving("redis", tmp_path, **settings) as one, serving("redis", tmp_path, **settings) as other:
        for _ in range(2):
            assert await one.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
            before = (await other.counters())["memory_hits"]
            for _ in range(3):
                assert await container_of(other) == CONTAINER
            counters = await other.counters()
            assert counters["memory_bytes"] == len(CONTAINER)
            assert counters["memory_hits"] > before
            receipt = await one.client.forget(keys=[KEY], deadline=DEADLINE)
            assert list(receipt.deleted) == [KEY]
            with pytest.raises(NotFoundError):
                await container_of(other)
            assert (await other.counters())["memory_bytes"] == 0


async def test_a_node_with_a_file_store_serves_from_memory_and_forgets(tmp_path: Path) -> None:
    async with serving("file", tmp_path, memory_bytes=1 << 20) as node:
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        for _ in range(3):
            assert await container_of(node) == CONTAINER
        counters = await node.counters()
        assert (counters["memory_hits"], counters["memory_bytes"]) == (1, len(CONTAINER))
        await node.client.forget(documents=META.document_ids, deadline=DEADLINE)
        with pytest.raises(NotFoundError):
            await container_of(node)
