"""Several objects in one stream of a node: each as it would come alone, and each fails alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from kvquilt_codec.container import parse_head
from kvquilt_codec.errors import BadRequestError, KvquiltError
from kvquilt_codec.types import LayerShape, Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.node_batches import MAX_CHUNKS, Wanted
from kvquilt_rpc.node_client import NodeClient
from tests import servers
from tests.cache_node.calls import DEADLINE, Node, serving
from tests.cache_node.remote import prefix_of
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT, make_chunk, make_object

SHAPE = (LayerShape(2, 16, 16),) * 2
OBJECTS = [make_object(make_chunk(20 + seed, SHAPE, seed=seed), Level.HIGH) for seed in range(12)]
LARGE = make_object(make_chunk(2000, (LayerShape(4, 64, 64),) * 3, seed=99), Level.LOSSLESS)
"""Of several frames."""
ALL = [*OBJECTS[:6], LARGE, *OBJECTS[6:]]
KEYS = [key for key, _, _ in ALL]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with serving("file", tmp_path) as running:
        for key, data, meta in ALL:
            await running.client.put(key, data, meta, deadline=DEADLINE)
        yield running


async def got(
    client: NodeClient, keys: list[bytes], layers: int = 0, fingerprint: str = FINGERPRINT
) -> list[bytes | str]:
    """Of each its bytes, or the reason why it did not come."""
    found: list[bytes | str] = [b""] * len(keys)
    ended: set[int] = set()
    wanted = [Wanted(key, layers) for key in keys]
    async for place, piece in client.batches.get(wanted, fingerprint, deadline=DEADLINE):
        assert place not in ended
        if isinstance(piece, KvquiltError):
            found[place] = piece.reason
        elif isinstance(piece, bytes):
            found[place] += piece
        if piece is None or isinstance(piece, KvquiltError):
            ended.add(place)
    assert ended == set(range(len(keys)))
    return found


async def alone(client: NodeClient, key: bytes, layers: int) -> bytes:
    pieces = client.get(key, FINGERPRINT, deadline=DEADLINE, quality_layers=layers)
    return b"".join([piece async for piece in pieces if isinstance(piece, bytes)])


@pytest.mark.parametrize("layers", [0, 1])
async def test_each_comes_as_it_does_alone_and_counts_as_used(node: Node, layers: int) -> None:
    asked = [*KEYS, KEYS[6], KEYS[0]]
    assert await got(node.client, asked, layers) == [await alone(node.client, key, layers) for key in asked]
    if not layers:
        assert await got(node.client, KEYS) == [data for _, data, _ in ALL]
    counters = await node.counters()
    assert counters["gets"] == 2 * len(asked) + (0 if layers else len(KEYS))
    uses = {info.use_count for info in (await node.client.stat(KEYS[1:5], deadline=DEADLINE)).values()}
    assert uses == {2 if layers else 3}


async def test_one_that_is_missing_damaged_or_another_models_fails_alone(node: Node, tmp_path: Path) -> None:
    key, data, meta = make_object(make_chunk(9, SHAPE, seed=50), Level.HIGH, fingerprint=OTHER_FINGERPRINT)
    await node.client.put(key, data, meta, deadline=DEADLINE)
    for place, cut in ((1, 0), (3, 200), (6, len(LARGE[1]) - 1)):
        (path,) = tmp_path.rglob(f"{KEYS[place].hex()}.kvq")
        path.write_bytes(path.read_bytes()[:cut])
    (path,) = tmp_path.rglob(f"{KEYS[8].hex()}.kvq")
    path.unlink()
    found = await got(node.client, [bytes(32), *KEYS, key])
    expected: list[bytes | str] = ["not_found", *(data for _, data, _ in ALL), "fingerprint_mismatch"]
    expected[9] = "not_found"
    damaged = (2, 4, 7)  # the last is found damaged after its first frames were sent
    assert all(isinstance(found[place], str) for place in damaged)
    assert [one for place, one in enumerate(found) if place not in damaged] == [
        one for place, one in enumerate(expected) if place not in damaged
    ]
    assert (await node.counters())["objects_damaged"] == 3
    assert set(await node.client.stat(KEYS, deadline=DEADLINE)) == set(KEYS) - {KEYS[place] for place in (1, 3, 6, 8)}


async def test_of_another_namespace_nothing_comes(node: Node) -> None:
    key, data, meta = make_object(make_chunk(9, SHAPE, seed=51), Level.HIGH, namespace="team-a")
    await node.client.put(key, data, meta, deadline=DEADLINE)
    with acting_in("team-b"):
        assert await got(node.client, [key, KEYS[0]]) == ["not_found", ALL[0][1]]
    with acting_in("team-a"):
        assert await got(node.client, [key, KEYS[0]]) == [data, ALL[0][1]]


@pytest.mark.parametrize("keys", [[], [bytes(32)] * (MAX_CHUNKS + 1), [KEYS[0], b"short"]])
async def test_what_cannot_be_asked_is_refused_as_a_whole(node: Node, keys: list[bytes]) -> None:
    with pytest.raises(BadRequestError):
        await got(node.client, keys)


async def test_a_caller_that_goes_away_leaves_nothing_behind(node: Node) -> None:
    wanted = [pb.WantedChunk(object_key=LARGE[0])] * 20
    call = node.stub.GetChunks(pb.GetChunksRequest(chunks=wanted, model_fingerprint=FINGERPRINT), timeout=DEADLINE)
    assert (await anext(aiter(call))).HasField("header")
    call.cancel()
    assert await got(node.client, KEYS) == [data for _, data, _ in ALL]


async def test_an_index_in_redis_is_asked_once_for_all(valkey: servers.RedisServer, tmp_path: Path) -> None:
    shared = {"redis_url": valkey.url, "redis_prefix": prefix_of(tmp_path), "index": "redis", "eviction": "lru"}
    async with serving("redis", tmp_path, memory_bytes=0, **shared) as node, Redis(port=valkey.port) as server:
        for key, data, meta in ALL:
            await node.client.put(key, data, meta, deadline=DEADLINE)
        before = (await server.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert await got(node.client, KEYS) == [data for _, data, _ in ALL]
        assert (await server.info("commandstats"))["cmdstat_evalsha"]["calls"] == before + 1


async def test_bytes_that_are_no_request(node: Node) -> None:
    call = node.channel.unary_stream("/kvquilt.v1.CacheNodeService/GetChunks")(b"\xff\xff\xff", timeout=DEADLINE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(call))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_large_object_takes_several_frames() -> None:
    assert parse_head(LARGE[1]).total_bytes > 2 << 20
