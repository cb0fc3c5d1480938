"""Large values that are read past the client library: the same answers, and no rest of one in the next."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.redis_bulk import fetched
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_codec.errors import DeadlineError, IntegrityError, UnavailableError
from tests import servers

SIZE = 300_000
VALUE = bytes(number % 251 for number in range(SIZE))


@pytest.fixture
async def raw(valkey: servers.RedisServer) -> AsyncIterator[Redis]:
    async with Redis(port=valkey.port, protocol=2, max_connections=2) as client:
        await client.set("value", VALUE)
        await client.delete("list")
        await client.rpush("list", "a")
        yield client


@pytest.mark.parametrize(
    ("size", "words", "expected"),
    [
        (SIZE, ("GET", "value"), VALUE),
        (100, ("GETRANGE", "value", 7, 106), VALUE[7:107]),
        (SIZE - 1, ("GET", "value"), None),
        (SIZE + 1, ("GET", "value"), None),
        (SIZE // 10, ("GET", "value"), None),
        (10 * SIZE, ("GET", "value"), None),
        (SIZE, ("GET", "absent"), None),
        (SIZE, ("GET", "list"), None),
        (SIZE, ("STRLEN", "value"), None),
    ],
)
async def test_the_answer_or_nothing_and_then_the_next_answer(
    raw: Redis, size: int, words: tuple[str, ...], expected: bytes | None
) -> None:
    for _ in range(5):  # on the same connections, if they are kept
        assert await fetched(raw, size, *words) == expected
        assert await raw.get("value") == VALUE
    answers = await asyncio.gather(*(fetched(raw, SIZE, "GET", "value") for _ in range(2)))
    assert answers == [VALUE, VALUE]


async def test_sound_answers_leave_the_connection_to_the_next(raw: Redis) -> None:
    await raw.ping()
    before = (await raw.info("stats"))["total_connections_received"]
    for _ in range(5):
        assert await fetched(raw, SIZE, "GET", "value") == VALUE
        await raw.ping()
    assert (await raw.info("stats"))["total_connections_received"] == before, "read past the library, on its connection"


@pytest.mark.skipif(servers.REDIS is None, reason="needs redis-server")
async def test_it_is_the_same_over_tls(tmp_path: Path) -> None:
    pem = servers.certificates(tmp_path)
    with servers.redis_tls(tmp_path / "server", pem) as server:
        own = {"ssl_ca_certs": str(pem.ca), "ssl_certfile": str(pem.client), "ssl_keyfile": str(pem.client_key)}
        async with Redis(port=server.port, protocol=2, ssl=True, **own) as client:
            await client.set("value", VALUE * 10)
            for _ in range(3):
                assert await fetched(client, 10 * SIZE, "GET", "value") == VALUE * 10
                assert await fetched(client, SIZE, "GET", "value") is None
                assert await client.strlen("value") == 10 * SIZE


async def test_a_caller_that_goes_away_leaves_nothing_to_the_next(raw: Redis) -> None:
    for turns in range(12):
        task = asyncio.create_task(fetched(raw, SIZE, "GET", "value"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await raw.strlen("value") == SIZE


async def test_a_client_says_of_such_answers_what_it_says_of_others(valkey: servers.RedisServer, raw: Redis) -> None:
    client = await RedisClient.connect(RedisUrl.parse(valkey.url), RedisOptions())
    assert await client.value(SIZE, "GET", "value") == VALUE
    assert await client.value(SIZE + 5, "GET", "value") == VALUE, "asked again"
    assert await client.value(SIZE, "GET", "absent") is None
    with pytest.raises(IntegrityError):
        await client.value(SIZE, "GET", "list")
    await client.close()
    with pytest.raises(UnavailableError, match="closed"):
        await client.value(SIZE, "GET", "value")


@asynccontextmanager
async def answering(answer: bytes, *, then_close: bool) -> AsyncIterator[int]:
    """A server that gives the same answer to GET, and OK to all that the library says first; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"GET" in data:
                writer.write(answer)
                if then_close:
                    break
            else:
                writer.write(b"+PONG\r\n" if b"PING" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(serve, servers.HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("answer", [b"", b"$3", b"$300000\r\n", b"$300000\r\n" + VALUE[:-1], b"$300000\r\n" + VALUE])
async def test_an_answer_that_breaks_off_is_an_error_in_time(answer: bytes) -> None:
    async with answering(answer, then_close=True) as port:
        client = await RedisClient.connect(RedisUrl.parse(f"redis://{servers.HOST}:{port}"), RedisOptions())
        with pytest.raises(UnavailableError):
            await client.value(SIZE, "GET", "value")
        await client.close()
    async with answering(answer, then_close=False) as port:
        url = RedisUrl.parse(f"redis://{servers.HOST}:{port}")
        client = await RedisClient.connect(url, RedisOptions(timeout=0.3))
        with pytest.raises(DeadlineError):
            await client.value(SIZE, "GET", "value")
        await client.close()
