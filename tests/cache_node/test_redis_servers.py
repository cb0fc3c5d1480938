"""Redis servers that are paused, killed or replaced, or that refuse: errors of our tree, in time, without secrets."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.redis_url import FORMS, RedisMode, RedisUrl
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_cache_node.store.redis_records import Names
from kvquilt_codec.errors import BadRequestError, DeadlineError, KvquiltError, UnavailableError
from tests import servers
from tests.cache_node.remote import prefix_of, redis_blobs
from tests.contracts.blobs_contract import data_of
from tests.docs.pages import section

KEYS = [bytes([number]) * 32 for number in range(8)]
DATA = data_of(7, 1_500_000)
SECRET = "pa%ss-w0rd"  # noqa: S105 - of no server


async def until(asked: Callable[[], Awaitable[object]]) -> None:
    """Ask until the answer is yes."""
    give_up = time.monotonic() + 20
    while not await asked():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)


async def test_a_paused_server_is_a_deadline_and_nothing_is_mixed_up_afterwards(tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "server") as server:
        blobs = await redis_blobs(server.url, tmp_path, timeout=0.5)
        for key in KEYS:
            await blobs.write(key, key * 50_000)
        server.process.pause()
        begin = time.monotonic()
        calls = [blobs.read(key) for key in KEYS] + [blobs.write(KEYS[0], DATA), blobs.delete(KEYS[1]), blobs.sizes()]
        errors = await asyncio.gather(*calls, *(blobs.read(key) for key in KEYS * 4), return_exceptions=True)
        assert {type(error) for error in errors} == {DeadlineError}
        assert "node.redis_timeout" in str(errors[0])
        assert time.monotonic() - begin < 10 * 0.5, "a bound, however many wait"
        server.process.resume()
        for key in KEYS[2:]:
            assert await blobs.read(key) == [key * 50_000]
        await blobs.write(KEYS[0], DATA)
        assert await blobs.read(KEYS[0]) == [DATA]
        await blobs.close()


async def test_a_killed_server_is_unavailable_and_is_found_again(tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "server", "--appendonly", "yes", "--appendfsync", "always") as server:
        blobs = await redis_blobs(server.url, tmp_path)
        for key in KEYS:
            await blobs.write(key, key * 50_000)
        server.process.kill()
        calls = (blobs.read(KEYS[0]), blobs.write(KEYS[0], DATA), blobs.delete(KEYS[1]), blobs.sizes())
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {UnavailableError}
        server.process.start()
        for key in KEYS:
            assert await blobs.read(key) == [key * 50_000], "what was acknowledged is there"
        await blobs.write(KEYS[0], DATA)
        assert await blobs.read(KEYS[0]) == [DATA]
        await blobs.close()


async def test_a_cluster_without_one_server_fails_with_errors_of_our_tree(tmp_path: Path) -> None:
    with servers.valkey_cluster(tmp_path / "servers", "--cluster-require-full-coverage", "no") as cluster:
        blobs = await redis_blobs(servers.cluster_url(cluster), tmp_path, timeout=1)
        for key in KEYS:
            await blobs.write(key, key * 100)
        cluster[1].process.kill()
        got = await asyncio.gather(*(blobs.read(key) for key in KEYS), return_exceptions=True)
        for key, one in zip(KEYS, got, strict=True):
            assert one == [key * 100] or isinstance(one, UnavailableError | DeadlineError), one
        assert any(isinstance(one, list) for one in got), "the other servers' blobs can be read"
        assert any(isinstance(one, KvquiltError) for one in got)
        await blobs.close()


async def test_sentinels_name_the_primary_also_after_a_failover(tmp_path: Path) -> None:
    with (
        servers.valkey(tmp_path / "first") as first,
        servers.valkey(tmp_path / "second", "--replicaof", f"{servers.HOST} {first.port}") as second,
        servers.sentinel(tmp_path / "sentinel", first) as port,
    ):
        blobs = await redis_blobs(f"redis+sentinel://{servers.HOST}:{port}/kvquilt", tmp_path, timeout=2)
        await blobs.write(KEYS[0], DATA)
        async with (
            Redis(port=second.port) as replica,
            Redis(port=port, decode_responses=True) as watcher,
        ):
            await until(lambda: replica.exists(Names(prefix_of(tmp_path)).manifest(KEYS[0])))
            await until(lambda: watcher.execute_command("SENTINEL", "REPLICAS", "kvquilt"))
        give_up = time.monotonic() + 20
        first.process.kill()
        while True:
            try:
                await blobs.write(KEYS[1], DATA)
                break
            except (UnavailableError, DeadlineError):
                assert time.monotonic() < give_up, "no failover"
                await asyncio.sleep(0.1)
        assert await blobs.read(KEYS[0]) == [DATA]
        assert "role:master" in second.command("INFO", "replication")
        await blobs.close()


@pytest.mark.skipif(servers.REDIS is None, reason="redis-server is not installed: apt-get install redis-server")
async def test_tls_needs_the_right_authority_and_the_clients_certificate(tmp_path: Path) -> None:
    pem = servers.certificates(tmp_path)
    with servers.redis_tls(tmp_path / "server", pem) as server:
        url = f"rediss://{servers.HOST}:{server.port}"
        known = {"ca": pem.ca, "certificate": pem.client, "key": pem.client_key}
        blobs = await redis_blobs(url, tmp_path, **known)
        await blobs.write(KEYS[0], DATA)
        assert await blobs.read(KEYS[0]) == [DATA]
        await blobs.close()
        for wrong in ({"ca": pem.other_ca}, {"ca": None}, {"certificate": None, "key": None}):
            # A server that refuses the handshake ends the connection, which may come before its word does.
            with pytest.raises(UnavailableError, match=r"TLS|reset"):
                await redis_blobs(url, tmp_path, **{**known, **wrong})
        with pytest.raises((UnavailableError, DeadlineError)):
            await redis_blobs(server.url, tmp_path, timeout=1)
        for bad in ({"key": None}, {"ca": tmp_path / "missing.pem"}, {"ca": pem.client_key}, {"key": pem.server_key}):
            with pytest.raises(BadRequestError):
                await redis_blobs(url, tmp_path, **{**known, **bad})
    with pytest.raises(BadRequestError, match="rediss"):
        await redis_blobs(server.url, tmp_path, ca=pem.ca)


async def test_wrong_credentials_are_refused_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with servers.valkey(tmp_path / "server", "--requirepass", "another") as server:
        place = f"{servers.HOST}:{server.port}"
        for user in (f":{SECRET}@", f"default:{SECRET}@", f"nobody:{SECRET}@", ""):
            for scheme in ("redis", "redis+cluster"):
                with pytest.raises(UnavailableError) as caught:
                    await redis_blobs(f"{scheme}://{user}{place}", tmp_path)
                shown = f"{caught.value} {caught.value.__context__!r} {caplog.text}"
                assert SECRET not in shown
                assert "pa\ufffds" not in shown
                assert caught.value.reason == "store_refused" or scheme == "redis+cluster"


async def test_the_documented_rights_are_enough_and_reach_no_other_key(tmp_path: Path) -> None:
    rights = next(line for line in section("stores.md", "Redis and Valkey").splitlines() if line.startswith("ACL "))
    rights = rights.replace("PASSWORD", "secret").replace("kvquilt:*", f"{prefix_of(tmp_path)}:*")
    with servers.valkey(tmp_path / "server", "--requirepass", SECRET) as server:
        async with Redis(port=server.port, password=SECRET) as raw:
            await raw.execute_command(*rights.split())
            await raw.set("another:key", "theirs")
        blobs = await redis_blobs(f"redis://kvquilt:secret@{servers.HOST}:{server.port}", tmp_path)
        for size in (0, 1_500_000, 10):
            await blobs.write(KEYS[0], DATA[:size])
            assert await blobs.read(KEYS[0]) == [DATA[:size]]
        await blobs.write(KEYS[1], DATA)
        await blobs.delete(KEYS[0])
        assert await blobs.sizes() == {KEYS[1]: len(DATA)}
        stranger = RedisBlobs(blobs._client, "another")
        for call in (stranger.write(KEYS[0], b"x"), stranger.read(KEYS[0]), stranger.delete(KEYS[0])):
            with pytest.raises(UnavailableError) as caught:
                await call
            assert caught.value.reason == "store_refused"
        await blobs.close()


async def test_an_address_where_nobody_listens_is_unavailable(tmp_path: Path) -> None:
    (port,) = servers.free_ports(1)
    for url in ("redis://{}", "redis+cluster://{}", "redis+sentinel://{}/kvquilt"):
        with pytest.raises(UnavailableError, match=str(port)):
            await redis_blobs(url.format(f"{servers.HOST}:{port}"), tmp_path)
    with pytest.raises(UnavailableError):
        await redis_blobs(f"unix://{tmp_path}/no-socket", tmp_path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", RedisUrl(RedisMode.STANDALONE, False, (("host", 6379),))),
        ("rediss://u:p%40%2F@h:1/3", RedisUrl(RedisMode.STANDALONE, True, (("h", 1),), "", 3, "", "u", "p@/")),
        ("redis://:p:q@h", RedisUrl(RedisMode.STANDALONE, False, (("h", 6379),), "", 0, "", None, "p:q")),
        ("redis+cluster://a:1,[::1]:2", RedisUrl(RedisMode.CLUSTER, False, (("a", 1), ("::1", 2)))),
        ("rediss+sentinel://a,b:2/main/1", RedisUrl(RedisMode.SENTINEL, True, (("a", 26379), ("b", 2)), "main", 1)),
        ("unix:///run/redis.sock", RedisUrl(RedisMode.STANDALONE, False, (), socket="/run/redis.sock")),
    ],
)
def test_urls_say_where_a_redis_is(url: str, expected: RedisUrl) -> None:
    assert RedisUrl.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "host:6379", "http://host", "redis+other://host", "redis+://h", "redis+standalone://h", "://h"),
        *("redis://", "redis://:p@", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://a,b", "redis://h/x"),
        *(
            "redis://h/1/2",
            "redis+cluster://h/1",
            "redis+sentinel://h",
            "redis+sentinel://h/s/1/2",
            "unix://h/s",
            "unix:///",
        ),
        *(f"redis://user:{SECRET}@h:port", f"redys://user:{SECRET}@h", f"redis://user:{SECRET}@h/{SECRET}@x/1"),
    ],
)
def test_other_urls_are_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(BadRequestError, match="expected a Redis URL") as caught:
        RedisUrl.parse(url)
    assert FORMS[0] in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(RedisUrl.parse(f"redis://user:{SECRET}@h"))
