"""Keys of namespaces under nodes: that share them, that have not the right one, and that forget a namespace."""

from pathlib import Path
from typing import Any

import pytest

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import MemoryBlobs, open_store
from kvquilt_cache_node.store.key_store import MemoryKeys
from kvquilt_cache_node.store.sealed import SealedBlobs
from kvquilt_cache_node.store.sealed_format import stored_size
from kvquilt_codec.errors import BadRequestError, IntegrityError, NotFoundError, UnavailableError
from tests import servers
from tests.cache_node.calls import CONTAINER, DEADLINE, KEY, META, serving
from tests.cache_node.remote import prefix_of
from tests.cache_node.sealing import KEY_TEXT, OBJECTS, OTHER_TEXT, container_of, keyring
from tests.stack import blobs as files


async def test_a_destroyed_key_makes_a_namespaces_blobs_unreadable_also_from_a_backup(tmp_path: Path) -> None:
    lower = MemoryBlobs()
    blobs = SealedBlobs(lower, await keyring(MemoryKeys()))
    for key, data, _ in OBJECTS.values():
        await blobs.write(key, data)
    backup = dict(lower._blobs)
    assert await blobs.destroy_key("team-a") is True
    for (key, data, _), readable in zip(OBJECTS.values(), (False, True), strict=True):
        await lower.write(key, backup[key])
        for ranges in (None, [(0, 28)]):
            if readable:
                assert (await blobs.read(key, ranges))[0] == (data if ranges is None else data[:28])
            else:
                with pytest.raises(IntegrityError) as caught:
                    await blobs.read(key, ranges)
                assert caught.value.reason == "key_destroyed"
    key, data, _ = OBJECTS["team-a"]
    await blobs.write(key, data)
    assert await blobs.read(key) == [data], "the namespace goes on with another key"
    assert await blobs.destroy_key("never used") is False
    await blobs.close()


async def test_forgetting_a_namespace_destroys_its_key_and_a_backup_of_its_objects_is_not_adopted(
    tmp_path: Path,
) -> None:
    settings = NodeSettings(path=tmp_path, fsync=False, encryption_key=KEY_TEXT)
    store = await open_store(settings)
    for key, data, meta in OBJECTS.values():
        await store.put_if_absent(key, data, meta)
    backup = {path: path.read_bytes() for path in files(tmp_path)}
    assert len(list((tmp_path / "keys").glob("*.key"))) == 3
    (gone, _, _), (stays, data, _) = OBJECTS.values()
    assert (await store.forget_namespace("team-a")).deleted == (gone,)
    assert len(list((tmp_path / "keys").glob("*.key"))) == 2
    await store.close()
    for path, content in backup.items():
        path.write_bytes(content)
    (tmp_path / "index.sqlite").unlink()
    store = await open_store(settings)
    assert [info.key for info in await store.list()] == [stays]
    assert await store.get(stays) == [data]
    assert len(files(tmp_path)) == 1
    await store.close()


async def test_a_namespace_whose_key_cannot_be_destroyed_is_not_said_to_be_forgotten(tmp_path: Path) -> None:
    settings = NodeSettings(path=tmp_path, fsync=False, encryption_key=KEY_TEXT)
    store = await open_store(settings)
    key, data, meta = OBJECTS["team-a"]
    await store.put_if_absent(key, data, meta)
    (tmp_path / "keys").rename(tmp_path / "moved")
    (tmp_path / "keys").write_text("not a folder")
    with pytest.raises(UnavailableError, match="key store"):
        await store.forget_namespace("team-a")
    (tmp_path / "keys").unlink()
    (tmp_path / "moved").rename(tmp_path / "keys")
    assert (await store.forget_namespace("team-a")).deleted == (key,)
    await store.close()


async def test_nodes_that_share_a_store_share_its_keys(valkey: servers.RedisServer, tmp_path: Path) -> None:
    shared: dict[str, Any] = {
        "redis_url": valkey.url,
        "redis_prefix": prefix_of(tmp_path),
        "index": "redis",
        "eviction": "lru",
        "encryption_key": KEY_TEXT,
    }
    async with serving("redis", tmp_path, **shared) as one, serving("redis", tmp_path, **shared) as other:
        assert await one.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        for _ in range(3):
            assert await container_of(other) == CONTAINER
        assert (await other.counters())["memory_bytes"] == stored_size(len(CONTAINER))
        assert (await one.used())[1] == stored_size(len(CONTAINER))
        await one.client.forget(keys=[KEY], deadline=DEADLINE)
        with pytest.raises(NotFoundError):
            await container_of(other)
    for wrong, reason in ((OTHER_TEXT, "wrong_encryption_key"), (None, "encryption_key_missing")):
        with pytest.raises(BadRequestError) as caught:
            await open_store(NodeSettings(store="redis", path=tmp_path, **{**shared, "encryption_key": wrong}))
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [({}, "encryption_key_missing"), ({"encryption_key": OTHER_TEXT}, "wrong_encryption_key")],
)
async def test_an_encrypted_store_does_not_open_without_its_key_and_loses_nothing(
    given: dict[str, str], reason: str, tmp_path: Path
) -> None:
    async with serving("file", tmp_path, encryption_key=KEY_TEXT) as node:
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    (tmp_path / "index.sqlite").unlink()
    with pytest.raises(BadRequestError) as caught:
        await open_store(NodeSettings(path=tmp_path, **given))
    assert caught.value.reason == reason
    assert KEY_TEXT not in str(caught.value)
    assert OTHER_TEXT not in str(caught.value)
    (tmp_path / "key").write_text(f"{KEY_TEXT}\n")
    async with serving("file", tmp_path, encryption_key_file=tmp_path / "key") as node:
        assert await container_of(node) == CONTAINER


async def test_what_was_stored_without_encryption_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as node:
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    async with serving("file", tmp_path, encryption_key=KEY_TEXT) as node:
        with pytest.raises(IntegrityError, match="stored without encryption"):
            await container_of(node)
        assert files(tmp_path) == [], "it is deleted"
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        assert await container_of(node) == CONTAINER


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_lost_key_store_makes_misses_and_no_more(encrypted: bool, tmp_path: Path) -> None:
    async with serving("file", tmp_path, encryption_key=KEY_TEXT) as node:
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    for record in (tmp_path / "keys").glob("*.key"):
        record.unlink()
    async with serving("file", tmp_path, **({"encryption_key": KEY_TEXT} if encrypted else {})) as node:
        with pytest.raises(IntegrityError):
            await container_of(node)
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        assert await container_of(node) == CONTAINER
