"""Which tier a read came from, as nodes say it: with every read, of the tier that served the bytes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.answering import answered, listening
from kvquilt_cache_node.store.observed import ObservedBlobs
from kvquilt_cache_node.store.opening_sealed import create_key
from kvquilt_cache_node.types import Blobs, ByteRange
from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from kvquilt_rpc import convert
from kvquilt_rpc.node_batches import Wanted
from tests import servers
from tests.cache_node.calls import DEADLINE, Node, serving
from tests.cache_node.remote import prefix_of
from tests.cache_node.stacks import Gated, Tiers, until
from tests.cache_node.tiers import tier
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.contracts.store_objects import key_of

KEY, CONTAINER, META = make_object(make_chunk(40), Level.HIGH, "a document")
OTHER = make_object(make_chunk(40, seed=1), Level.HIGH, "another")
ONE = key_of(1)


async def said(node: Node, key: bytes = KEY, layers: range | None = None) -> Tier:
    """What a read of an object says of itself, after it was read to its end."""
    header, *data = [item async for item in node.client.get(key, FINGERPRINT, deadline=DEADLINE, layers=layers)]
    assert isinstance(header, pb.GetChunkHeader)
    assert layers is not None or key != KEY or b"".join(data) == CONTAINER
    return convert.tier_from_wire(header.tier)


async def said_together(node: Node, *keys: bytes) -> list[Tier]:
    """The same of objects that are read in one call."""
    parts = node.client.batches.get([Wanted(key) for key in keys], FINGERPRINT, deadline=DEADLINE)
    found = {place: item async for place, item in parts if isinstance(item, pb.GetChunkHeader)}
    return [convert.tier_from_wire(found[place].tier) for place in range(len(keys))]


async def counted(node: Node, name: str, wanted: Callable[[int], bool]) -> None:
    """Wait until a counter of the node is as it should be."""
    while not wanted((await node.counters())[name]):  # noqa: ASYNC110  the node tells nobody
        await asyncio.sleep(0.01)


async def test_an_object_comes_from_the_queue_then_the_store_then_the_hot_tier(
    s3: servers.S3Server, valkey: servers.RedisServer, tmp_path: Path
) -> None:
    prefix = prefix_of(tmp_path)
    settings: dict[str, object] = {
        "object_key_id": servers.S3_KEY_ID,
        "object_secret": servers.S3_SECRET,
        "object_endpoint": s3.endpoint,
        "object_url": f"{s3.url}/{prefix}",
        "object_timeout": 5.0,
        "write_mode": "back",
        "memory_bytes": 0,
        "hot_store": "redis",
        "hot_redis_url": valkey.url,
        "hot_redis_prefix": prefix,
        "hot_timeout": 5.0,
    }
    async with serving("object", tmp_path, **settings) as node:
        s3.process.pause()
        try:
            assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
            assert await said(node) is Tier.QUEUE
        finally:
            s3.process.resume()
        await counted(node, "queue_entries", lambda entries: entries == 0)
        assert await said(node) is Tier.STORE, "which is being copied from now on"
        while (where := await said(node)) is Tier.STORE:  # noqa: ASYNC110  the copy tells nobody
            await asyncio.sleep(0.01)
        assert where is Tier.HOT
        hits = (await node.counters())["hot_hits"]
        assert await said(node, layers=range(1)) is Tier.HOT
        assert await said_together(node, KEY) == [Tier.HOT]
        assert (await node.counters())["hot_hits"] > hits
        for found in valkey.command("KEYS", f"{prefix}*").split():
            if found.startswith(prefix):
                valkey.command("SETRANGE", found, "100", "damaged")
        assert await said(node) is Tier.STORE, "a copy that does not prove itself is read below, whole"
        assert (await node.counters())["hot_damaged"] == 1


@pytest.mark.parametrize("encrypted", [False, True])
async def test_memory_is_said_from_the_third_use_on(
    valkey: servers.RedisServer, tmp_path: Path, encrypted: bool
) -> None:
    keys = {"encryption_key": create_key()} if encrypted else {}
    settings = {"redis_url": valkey.url, "redis_prefix": prefix_of(tmp_path), "memory_bytes": 1 << 20, **keys}
    async with serving("redis", tmp_path, **settings) as node:
        for key, container, meta in ((KEY, CONTAINER, META), OTHER):
            assert await node.client.put(key, container, meta, deadline=DEADLINE) is True
        assert [await said(node) for _ in range(4)] == [Tier.STORE, Tier.STORE, Tier.MEMORY, Tier.MEMORY]
        assert await said(node, layers=range(1)) is Tier.MEMORY
        assert await said_together(node, OTHER[0], KEY) == [Tier.STORE, Tier.MEMORY], "each its own"


async def test_parts_that_bring_an_object_into_memory_came_from_the_store(tmp_path: Path) -> None:
    """The first of three reads of a use loads the object, the others are served from memory: the slowest counts."""
    async with serving("file", tmp_path, memory_bytes=1 << 20) as node:
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        uses = [await said(node, layers=range(1)) for _ in range(3)]
        assert uses == [Tier.STORE, Tier.STORE, Tier.MEMORY]
        assert (await node.counters())["memory_hits"] > 3, "also in the second use"


def measured(blobs: Blobs, where: Tier = Tier.STORE) -> ObservedBlobs:
    return ObservedBlobs(blobs, where, NodeMeter())


async def test_all_who_wait_for_one_read_hear_where_it_came_from() -> None:
    lower = Gated(measured(MemoryBlobs()))
    blobs = tier(lower, 1000)
    await blobs.write(ONE, bytes(100))

    async def read() -> Tier:
        with listening() as heard:
            assert await blobs.read(ONE) == [bytes(100)]
        return heard.tier

    lower.going.clear()
    reads = [asyncio.create_task(read()) for _ in range(3)]
    await until(lambda: ("read", ONE) in lower.calls)
    lower.going.set()
    assert await asyncio.gather(*reads) == [Tier.STORE] * 3
    assert await read() is Tier.STORE
    assert await read() is Tier.MEMORY


@pytest.mark.parametrize("winner", [Tier.HOT, Tier.STORE])
async def test_of_two_that_race_the_winner_is_heard(winner: Tier) -> None:
    tiers = Tiers()
    tiers.lower = Gated(measured(MemoryBlobs()))
    tiers.hot = Gated(measured(tiers.medium, Tier.HOT))
    await tiers.open()
    data = await tiers.copied(1)
    for _ in range(64):
        tiers.blobs._hedge._latencies.add(0.001)

    async def read(ranges: list[ByteRange]) -> Tier:
        with listening() as heard:
            assert await tiers.blobs.read(ONE, ranges) == [data[begin:end] for begin, end in ranges]
        return heard.tier

    loser = tiers.lower if winner is Tier.HOT else tiers.hot
    for gated in (tiers.hot, tiers.lower):
        gated.going.clear()
    reading = asyncio.create_task(read([(0, 10)]))
    await until(lambda: tiers.hot.calls and tiers.lower.calls)
    (tiers.hot if loser is tiers.lower else tiers.lower).going.set()
    assert await reading is winner
    assert tiers.count("tier_hedges") == 1


async def test_nobody_hears_of_the_reads_of_others() -> None:
    with listening() as outer:
        answered(Tier.HOT)
        with listening() as inner:
            answered(Tier.STORE)
        answered(Tier.MEMORY)
    answered(Tier.QUEUE)
    assert (outer.tier, inner.tier) == (Tier.HOT, Tier.STORE)


@pytest.mark.parametrize("number", [0, 5, 999, -1, 2**31 - 1])
def test_a_tier_that_is_not_said_or_not_known_is_unknown(number: int) -> None:
    header = pb.GetChunkHeader.FromString(pb.GetChunkHeader(payload_bytes=1).SerializeToString())
    header.tier = common_pb2.TierKind.ValueType(number)
    again = pb.GetChunkHeader.FromString(header.SerializeToString())
    assert convert.tier_from_wire(again.tier) is Tier.UNKNOWN
    assert convert.tier_to_wire(Tier.UNKNOWN) == convert.tier_to_wire(Tier.ROUTER) == 0


@pytest.mark.parametrize("known", [Tier.MEMORY, Tier.HOT, Tier.QUEUE, Tier.STORE])
def test_tiers_come_back_from_the_wire(known: Tier) -> None:
    assert convert.tier_from_wire(convert.tier_to_wire(known)) is known
