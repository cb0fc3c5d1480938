"""Stores on servers, opened for tests: what a folder names is the test's own on a server that all share."""

import hashlib
from pathlib import Path

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.object_blobs import ObjectBlobs, ObjectOptions, open_object_store
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_index import RedisIndex
from tests import servers


def prefix_of(folder: Path) -> str:
    """A prefix that no other folder has."""
    return "test-" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


async def redis_blobs(url: str, folder: Path, **options: object) -> RedisBlobs:
    """The blobs of a folder on a Redis."""
    client = await RedisClient.connect(RedisUrl.parse(url), RedisOptions(**options))
    return RedisBlobs(client, prefix_of(folder))


def s3_blobs(server: servers.S3Server, folder: Path, **options: object) -> ObjectBlobs:
    """The blobs of a folder on an S3 service."""
    url = f"{server.url}/{prefix_of(folder)}"
    known = {"endpoint": server.endpoint, "key_id": servers.S3_KEY_ID, "secret": servers.S3_SECRET, "retries": 1}
    return ObjectBlobs(open_object_store(url, ObjectOptions(**{**known, **options})), url)


async def redis_index(
    url: str, folder: Path, policy: str = "lru", *, lease: float = 30.0, departures: int = 100, **options: object
) -> RedisIndex:
    """The index of a folder on a Redis."""
    client = await RedisClient.connect(RedisUrl.parse(url), RedisOptions(**options))
    return await RedisIndex.open(client, prefix_of(folder), policy, lease=lease, departures=departures)


async def pass_time(index: Index, seconds: float) -> None:
    """Let an index in Redis believe that time passed: what was is longer ago then."""
    assert isinstance(index, RedisIndex)
    scripts = index._scripts
    before = float(await scripts._client.call("HGET", f"{scripts.prefix}:sums", "age") or 0)
    await scripts._client.call("HSET", f"{scripts.prefix}:sums", "age", repr(before + seconds))
    for name in await scripts._client.call("ZRANGE", f"{scripts.prefix}:departed", 0, -1):
        await scripts._client.call("ZINCRBY", f"{scripts.prefix}:departed", -seconds, name)
