"""Nodes whose objects are on a server: restarts, settings that cannot be, packages that are missing."""

import builtins
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_codec.errors import BadRequestError, KvquiltError, UnavailableError
from tests import servers
from tests.cache_node.calls import CONTAINER, DEADLINE, KEY, META, serving
from tests.cache_node.remote import prefix_of
from tests.codec.samples import FINGERPRINT


def redis_settings(server: servers.RedisServer, folder: Path) -> dict[str, object]:
    return {"store": "redis", "path": folder, "redis_url": server.url, "redis_prefix": prefix_of(folder)}


def s3_settings(server: servers.S3Server, folder: Path) -> dict[str, object]:
    names = {"object_key_id": servers.S3_KEY_ID, "object_secret": servers.S3_SECRET, "object_endpoint": server.endpoint}
    return {"store": "object", "path": folder, "object_url": f"{server.url}/{prefix_of(folder)}", **names}


@pytest.fixture(params=["redis", "object"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    if request.param == "redis":
        return redis_settings(request.getfixturevalue("valkey"), tmp_path)
    return s3_settings(request.getfixturevalue("s3"), tmp_path)


async def test_objects_outlive_the_node_and_its_index(settings: dict[str, object], tmp_path: Path) -> None:
    async with serving(**settings) as node:
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    for lost in (False, True):
        if lost:
            for file in (tmp_path / str(settings["store"])).iterdir():
                file.unlink()
        async with serving(**settings) as node:
            status = await node.client.status(deadline=DEADLINE)
            assert (status.store, status.objects, status.used_bytes) == (settings["store"], 1, len(CONTAINER))
            got = [item async for item in node.client.get(KEY, FINGERPRINT, deadline=DEADLINE)]
            assert b"".join(item for item in got if isinstance(item, bytes)) == CONTAINER


async def test_one_process_holds_the_index(settings: dict[str, object]) -> None:
    store = await open_store(NodeSettings(**settings))
    with pytest.raises(UnavailableError) as caught:
        await open_store(NodeSettings(**settings))
    assert caught.value.reason == "store_locked"
    await store.close()
    await (await open_store(NodeSettings(**settings))).close()


async def test_damaged_blobs_go_at_the_start(valkey: servers.RedisServer, tmp_path: Path) -> None:
    settings = redis_settings(valkey, tmp_path)
    name = f"{prefix_of(tmp_path)}:{{{KEY.hex()}}}"
    async with serving(**settings) as node:
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    async with Redis(port=valkey.port) as raw:
        await raw.setrange(name, 20, b"\xff")
        async with serving(**settings) as node:
            assert await node.used() == (0, 0)
            assert [key async for key in raw.scan_iter(match=f"{prefix_of(tmp_path)}:*")] == []
            assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"store": "redis"}, "redis_url"),
        ({"store": "object"}, "object_url"),
        ({"store": "redis", "redis_url": "http://user:hidden@host"}, "expected a Redis URL"),
        ({"store": "tape"}, "file"),
        ({"redis_timeout": 0}, "redis_timeout"),
        ({"redis_connections": 0}, "redis_connections"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        NodeSettings(**changed)
    assert "hidden" not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"store": "redis", "redis_url": "redis://127.0.0.1:1"}, UnavailableError),
        ({"store": "redis", "redis_url": "redis://h", "redis_ca": "/etc/hosts"}, BadRequestError),
        ({"store": "object", "object_url": "ftp://host/x"}, BadRequestError),
        ({"store": "object", "object_url": "file:///proc/no"}, UnavailableError),
    ],
)
async def test_stores_that_cannot_be_opened_end_the_start(
    tmp_path: Path, changed: dict[str, object], kind: type[KvquiltError]
) -> None:
    with pytest.raises(kind):
        await open_store(NodeSettings(path=tmp_path, **changed))
    await (await open_store(NodeSettings(path=tmp_path, fsync=False))).close()


@pytest.mark.parametrize("name", ["redis", "object"])
async def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    imported = builtins.__import__

    def without(module: str, *rest: object) -> object:
        if module.startswith("kvquilt_cache_node.store.redis_") or module.endswith("object_blobs"):
            raise ModuleNotFoundError("no module", name="the-package")
        return imported(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadRequestError, match=rf"the-package.*kvquilt\[{name}\]"):
        await open_store(NodeSettings(store=name, path=tmp_path, redis_url="redis://h", object_url="s3://b"))
