"""Blobs in Redis: foreign and damaged values, writers that die at any point, memory that is full."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash
from redis.asyncio import Redis

from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_cache_node.store.redis_records import FRAME_BYTES, MAX_FRAMES, Manifest, Names
from kvquilt_codec.errors import BadRequestError, CapacityError, IntegrityError, NotFoundError, UnavailableError
from tests import servers
from tests.cache_node.remote import prefix_of, redis_blobs
from tests.contracts.blobs_contract import data_of

KEY = b"\x07" * 32
DATA = data_of(7, 3 * FRAME_BYTES + 1000)


@pytest.fixture
async def blobs(valkey: servers.RedisServer, tmp_path: Path) -> AsyncIterator[RedisBlobs]:
    opened = await redis_blobs(valkey.url, tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def raw(valkey: servers.RedisServer) -> AsyncIterator[Redis]:
    """The same server, past kvquilt."""
    async with Redis(port=valkey.port) as client:
        yield client


@pytest.fixture
def names(tmp_path: Path) -> Names:
    return Names(prefix_of(tmp_path))


async def keys_in(raw: Redis, folder: Path) -> dict[bytes, int]:
    """Keys below the folder's prefix, with their milliseconds to live; -1: for ever."""
    return {name: await raw.pttl(name) async for name in raw.scan_iter(match=f"{prefix_of(folder)}:*", count=1000)}


async def manifest_in(raw: Redis, names: Names) -> Manifest:
    return Manifest.decode(await raw.get(names.manifest(KEY)))


LYING = Manifest(10, FRAME_BYTES, b"g" * 8, 0, 0)

FOREIGN: dict[str, bytes] = {
    "text": b"a value of another program",
    "nothing": b"\0",
    "long": bytes(5 << 20),
    "cut": LYING.encode()[:-1],
    "longer": LYING.encode() + b"\0",
    "flipped": LYING.encode()[:20] + b"\x01" + LYING.encode()[21:],
    "frames of nothing": replace(LYING, frame_bytes=0).encode(),
    "frames too large": replace(LYING, frame_bytes=FRAME_BYTES + 1).encode(),
    "more than all memory": replace(LYING, size=2**64 - 1).encode(),
    "too many frames": replace(LYING, size=MAX_FRAMES + 1, frame_bytes=1).encode(),
    "frames that are not there": LYING.encode(),
}


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
async def test_a_foreign_value_is_an_integrity_error_and_can_be_replaced(
    blobs: RedisBlobs, raw: Redis, names: Names, tmp_path: Path, value: bytes
) -> None:
    await raw.set(names.manifest(KEY), value)
    for ranges in (None, [(0, 1)], [(0, 5), (6, 7)]):
        with pytest.raises(IntegrityError):
            await blobs.read(KEY, ranges)
    said = await blobs.sizes()
    assert said == {KEY: 10 if value == LYING.encode() else -1}
    await blobs.write(KEY, DATA)
    assert await blobs.read(KEY) == [DATA]
    await raw.set(names.manifest(KEY), value)
    await blobs.delete(KEY)
    assert await blobs.sizes() == {}
    assert await keys_in(raw, tmp_path) == {}, "frames without their manifest are found by the listing"


async def test_values_of_other_types_are_integrity_errors(blobs: RedisBlobs, raw: Redis, names: Names) -> None:
    await raw.rpush(names.manifest(KEY), "a", "list")
    with pytest.raises(IntegrityError):
        await blobs.read(KEY)
    assert await blobs.sizes() == {KEY: -1}
    await blobs.write(KEY, DATA)
    frame = names.frame(KEY, (await manifest_in(raw, names)).generation, 1)
    await raw.delete(frame)
    await raw.hset(frame, "a", "hash")
    for ranges in (None, [(FRAME_BYTES, FRAME_BYTES + 1)]):
        with pytest.raises(IntegrityError):
            await blobs.read(KEY, ranges)
    await blobs.delete(KEY)
    assert await blobs.sizes() == {}


async def test_names_that_are_not_ours_are_left_alone(blobs: RedisBlobs, raw: Redis, tmp_path: Path) -> None:
    prefix = prefix_of(tmp_path)
    foreign = [
        f"{prefix}:{{ab}}",
        f"{prefix}:{{{'zz' * 32}}}",
        f"{prefix}:{{{'ab' * 32}}}:x",
        f"{prefix}x:{{{'ab' * 32}}}",
    ]
    for name in foreign:
        await raw.set(name, "value")
    assert await blobs.sizes() == {}
    assert await raw.exists(*foreign) == len(foreign)


async def test_a_future_version_is_told_apart_from_damage(blobs: RedisBlobs, raw: Redis, names: Names) -> None:
    record = bytearray(LYING.encode()[:-8])
    record[4] = 2
    await raw.set(names.manifest(KEY), bytes(record) + xxhash.xxh3_64_digest(bytes(record)))
    with pytest.raises(IntegrityError, match="newer kvquilt") as caught:
        await blobs.read(KEY)
    assert caught.value.reason == "unknown_version"


async def test_pieces_of_a_blob_that_is_replaced_or_cut_meanwhile_are_never_mixed(
    blobs: RedisBlobs, raw: Redis, names: Names, tmp_path: Path, valkey: servers.RedisServer
) -> None:
    other = await redis_blobs(valkey.url, tmp_path)
    await blobs.write(KEY, DATA)
    pieces = blobs.pieces(KEY)
    first = await anext(pieces)
    assert first == DATA[: len(first)]
    await other.write(KEY, DATA[::-1])
    with pytest.raises(UnavailableError, match="replaced"):
        _ = [piece async for piece in pieces]
    assert b"".join([piece async for piece in blobs.pieces(KEY)]) == DATA[::-1]
    await other.write(KEY, DATA)
    assert b"".join([piece async for piece in blobs.pieces(KEY)]) == DATA, "an old manifest is found out at once"
    await raw.delete(names.frame(KEY, (await manifest_in(raw, names)).generation, 1))
    with pytest.raises(IntegrityError, match="one is gone"):
        _ = [piece async for piece in blobs.pieces(KEY)]
    await other.close()


@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "empty", "flipped"])
async def test_damaged_frames_are_integrity_errors(blobs: RedisBlobs, raw: Redis, names: Names, damage: str) -> None:
    await blobs.write(KEY, DATA)
    frame = names.frame(KEY, (await manifest_in(raw, names)).generation, 1)
    piece = DATA[FRAME_BYTES : 2 * FRAME_BYTES]
    changed = {
        "shorter": piece[:-1],
        "longer": piece + b"\0",
        "empty": b"",
        "flipped": piece[:9] + bytes([piece[9] ^ 4]) + piece[10:],
    }
    await (raw.delete(frame) if damage == "missing" else raw.set(frame, changed[damage]))
    with pytest.raises(IntegrityError):
        await blobs.read(KEY)
    assert await blobs.read(KEY, [(0, 100), (3 * FRAME_BYTES, 3 * FRAME_BYTES + 100)]) == [
        DATA[:100],
        DATA[3 * FRAME_BYTES : 3 * FRAME_BYTES + 100],
    ], "frames that are sound can be read"
    await blobs.write(KEY, DATA)
    assert await blobs.read(KEY) == [DATA]


async def test_a_range_fetches_no_more_than_it_needs(blobs: RedisBlobs, raw: Redis) -> None:
    await blobs.write(KEY, DATA)
    before = (await raw.info("stats"))["total_net_output_bytes"]
    await blobs.read(KEY, [(10, 20), (FRAME_BYTES - 5, FRAME_BYTES + 5)])
    assert (await raw.info("stats"))["total_net_output_bytes"] - before < 20_000


async def test_only_unfinished_frames_expire(blobs: RedisBlobs, raw: Redis, tmp_path: Path) -> None:
    seen: set[int] = set()
    for steps in range(0, 60, 3):
        task = asyncio.create_task(blobs.write(KEY, DATA))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()  # no clean-up: as if the process were killed here
        await asyncio.gather(task, return_exceptions=True)
        try:
            assert await blobs.read(KEY) == [DATA]
            committed = 1
        except NotFoundError:
            committed = 0
        lives = await keys_in(raw, tmp_path)
        assert sum(life == -1 for life in lives.values()) == committed * 5, "a manifest and four frames, or nothing"
        seen.add(len(lives))
        await blobs.sizes()
        after = await keys_in(raw, tmp_path)
        assert after.keys() == lives.keys(), "what expires is left to that, and nothing of a blob is deleted"
        await blobs.delete(KEY)
        assert all(life > 0 for life in (await keys_in(raw, tmp_path)).values())
    assert len(seen) > 2, "killed at different points"


async def test_frames_whose_manifest_is_lost_are_deleted_by_the_listing(
    blobs: RedisBlobs, raw: Redis, names: Names, tmp_path: Path
) -> None:
    await blobs.write(KEY, DATA)
    await blobs.write(bytes(32), DATA)
    await raw.delete(names.manifest(KEY))  # as a server may that evicts any key
    with pytest.raises(NotFoundError):
        await blobs.read(KEY, [])
    assert await blobs.sizes() == {bytes(32): len(DATA)}
    assert len(await keys_in(raw, tmp_path)) == 5
    assert await blobs.read(bytes(32)) == [DATA]


async def test_a_write_whose_frames_expired_fails_and_leaves_what_was_there(
    blobs: RedisBlobs, raw: Redis, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.write(KEY, b"before")
    monkeypatch.setattr("kvquilt_cache_node.store.redis_blobs._EXPIRY_SECONDS", 1)
    swap = blobs._swap

    async def late(key: bytes, manifest: Manifest | None) -> None:
        for frame in names.frames(key, manifest):
            await raw.delete(frame)
        await swap(key, manifest)

    monkeypatch.setattr(blobs, "_swap", late)
    with pytest.raises(UnavailableError, match="one is gone"):
        await blobs.write(KEY, DATA)
    assert await blobs.read(KEY) == [b"before"]


async def test_what_another_node_deleted_or_replaced_is_never_read_from_memory(
    blobs: RedisBlobs, valkey: servers.RedisServer, tmp_path: Path
) -> None:
    other = await redis_blobs(valkey.url, tmp_path)
    await blobs.write(KEY, DATA)
    assert await other.read(KEY, [(0, 1)]) == [DATA[:1]]
    await blobs.write(KEY, b"short")
    assert await other.read(KEY, [(0, 5)]) == [b"short"]
    await blobs.write(KEY, DATA)
    assert await other.read(KEY, [(100, 2000)]) == [DATA[100:2000]], "outside of what it remembers"
    await blobs.delete(KEY)
    for ranges in (None, [], [(0, 0)], [(0, 1)]):
        with pytest.raises(NotFoundError):
            await other.read(KEY, ranges)
    await other.close()


async def test_the_listing_is_in_the_order_of_writing(blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000, 2000))
    monkeypatch.setattr(blobs, "_clock", lambda: float(next(clock)))
    order = [3, 1, 2, 9, 5, 1]
    for number in order:
        await blobs.write(bytes([number]) * 32, b"x")
    assert [key[0] for key in await blobs.sizes()] == [3, 2, 9, 5, 1]


async def test_a_full_server_refuses_the_write_and_nothing_else(tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "server", "--maxmemory", "16mb", "--maxmemory-policy", "noeviction") as server:
        blobs = await redis_blobs(server.url, tmp_path)
        await blobs.write(KEY, DATA)
        for _ in range(2):
            with pytest.raises(CapacityError, match="maxmemory") as caught:
                await blobs.write(b"\1" * 32, bytes(30 << 20))
            assert caught.value.reason == "store_full"
            assert await blobs.sizes() == {KEY: len(DATA)}
            assert await blobs.read(KEY) == [DATA]
        async with Redis(port=server.port) as raw:
            assert len(await keys_in(raw, tmp_path)) == 5, "the frames of the refused write are gone at once"
        await blobs.delete(KEY)
        await blobs.write(KEY, data_of(8, 5 << 20))
        assert await blobs.read(KEY) == [data_of(8, 5 << 20)]
        await blobs.close()


async def test_all_keys_of_a_blob_are_in_one_slot(valkey_cluster: list[servers.RedisServer], tmp_path: Path) -> None:
    blobs = await redis_blobs(servers.cluster_url(valkey_cluster), tmp_path)
    for number in range(12):
        await blobs.write(bytes([number]) * 32, DATA)
    counts = []
    for server in valkey_cluster:
        async with Redis(port=server.port) as raw:
            counts.append(len(await keys_in(raw, tmp_path)))
    assert sum(counts) == 12 * 5
    assert all(count % 5 == 0 and count for count in counts), "whole blobs, on every server"
    await blobs.close()


@pytest.mark.parametrize("prefix", ["", "a b", "a{b}", "a*", "é", "x" * 65, "a\n"])
def test_prefixes_that_would_break_names_are_refused(prefix: str) -> None:
    with pytest.raises(BadRequestError, match="prefix"):
        Names(prefix)
