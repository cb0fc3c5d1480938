"""`kvquilt repair` as a process, on a file store and on a store in Redis whose index is in Redis."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_cache_node.store.opening import open_parts
from kvquilt_codec.types import Level
from tests import servers
from tests.codec.samples import make_chunk, make_object
from tests.e2e.commands import answer, kvquilt
from tests.stack import blobs

OBJECTS = [make_object(make_chunk(5, seed=seed), Level.HIGH, f"doc {seed}") for seed in range(3)]
NOTHING = {"finished": 0, "dropped": 0, "adopted": 0, "deleted": 0, "evicted": 0, "left": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RedisServer]:
    with servers.valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


async def filled(settings: NodeSettings) -> None:
    store = await open_store(settings)
    for key, data, meta in OBJECTS:
        await store.put_if_absent(key, data, meta)
    await store.close()


async def repaired(settings: NodeSettings, *flags: str) -> dict[str, int]:
    given = settings.model_dump(exclude_unset=True, mode="json")
    if settings.redis_url is not None:
        given["redis_url"] = settings.redis_url.get_secret_value()
    sets = [word for name, value in given.items() for word in ("--set", f"node.{name}={value}")]
    (done,) = answer("repair", *sets, *flags)
    return done


async def test_repair_of_a_file_store(tmp_path: Path) -> None:
    settings = NodeSettings(path=tmp_path, fsync=False)
    await filled(settings)
    blobs(tmp_path)[0].write_bytes(b"damaged")
    expected = {"blobs": 3, "rows": 3, **NOTHING, "dropped": 1, "deleted": 1}
    assert await repaired(settings, "--dry-run") == expected | {"deleted": 0, "dry_run": True}
    assert await repaired(settings) == expected | {"dry_run": False}
    rebuilt = {"blobs": 2, "rows": 0, **NOTHING, "adopted": 2, "dry_run": False}
    assert await repaired(settings, "--rebuild") == rebuilt
    store = await open_store(settings)
    assert len(await store.list()) == 2
    refused = kvquilt("repair", "--data-dir", tmp_path, "--json", code=5)
    assert json.loads(refused.stderr)["error"]["reason"] == "store_locked"
    await store.close()


async def test_repair_of_a_store_that_nodes_share(server: servers.RedisServer, tmp_path: Path) -> None:
    named = {"store": "redis", "index": "redis", "eviction": "gdsf", "redis_prefix": "shared"}
    settings = NodeSettings(redis_url=server.url, path=tmp_path, **named)
    await filled(settings)
    store = await open_store(settings)
    bytes_of, index = await open_parts(settings)
    await bytes_of.delete(OBJECTS[0][0])
    expected = {"blobs": 2, "rows": 3, **NOTHING, "dropped": 1, "dry_run": False}
    assert await repaired(settings) == expected, "beside a node that has it open"
    assert len(await store.list()) == 2
    await store.close()
    assert (await repaired(settings, "--rebuild"))["adopted"] == 2
    store = await open_store(settings)
    assert len((await store.forget([], ["doc 1", "doc 2"])).deleted) == 2
    await store.close()
    await bytes_of.close()
    await index.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "node.store=memory"], "outlives its process"),
        (["--dry-run", "--rebuild"], "--dry-run or --rebuild"),
        (["--set", "node.index=redis"], "node.redis_url"),
        (["--set", "node.index=redis", "--set", "node.redis_url=redis://h"], "node.store redis or object"),
    ],
)
def test_what_cannot_be_repaired_is_refused(flags: list[str], said: str) -> None:
    assert said in kvquilt("repair", *flags, code=2).stderr
