"""Encrypted stores as nodes open them: what is on the medium, what the cap counts, and what keys are good for."""

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import Database, IndexedStore, MemoryBlobs, SqliteIndex, open_store
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.store.sealed_format import HEADER_BYTES, PAGE_BYTES, TAG_BYTES, stored_size
from kvquilt_cache_node.store.whole import InOnePiece
from kvquilt_cache_node.types import COUNTERS
from kvquilt_codec.errors import BadRequestError, CapacityError, IntegrityError, KvquiltError, NotFoundError
from kvquilt_codec.types import Level
from kvquilt_rpc.counters import Counters
from tests.cache_node.calls import CONTAINER, DEADLINE, KEY, META, serving
from tests.cache_node.sealing import KEY_TEXT, OBJECTS, OTHER_TEXT, container_of, sealed
from tests.cache_node.tiers import Watched
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.contracts.blobs_contract import data_of
from tests.contracts.store_objects import key_of, meta_of
from tests.stack import blobs as files


def everything(folder: Path) -> bytes:
    """All files but those of indexes, which hold a model's fingerprint in clear as containers do."""
    kept = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("index.sqlite"))
    return b"".join(path.read_bytes() for path in kept)


# What is on the medium


async def test_files_hold_nothing_that_can_be_read_and_a_node_with_the_key_serves_them(tmp_path: Path) -> None:
    async with serving("file", tmp_path, encryption_key=KEY_TEXT) as node:
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        assert await container_of(node) == CONTAINER
    (file,) = files(tmp_path)
    on_disk = file.read_bytes()
    assert len(on_disk) == stored_size(len(CONTAINER))
    windows = {CONTAINER[at : at + 16] for at in range(0, len(CONTAINER) - 16, 16)}
    assert not any(window in on_disk for window in windows)
    assert META.namespace.encode() not in on_disk
    assert KEY_TEXT.encode() not in everything(tmp_path)
    async with serving("file", tmp_path, encryption_key=f"{OTHER_TEXT},{KEY_TEXT}") as node:
        assert await container_of(node) == CONTAINER, "after a restart, with another key before it"


async def test_queues_and_all_tiers_hold_nothing_that_can_be_read(tmp_path: Path) -> None:
    settings = NodeSettings(
        store="object",
        object_url=f"file://{tmp_path}/objects",
        path=tmp_path / "node",
        write_mode="back",
        hot_store="file",
        memory_bytes=1 << 20,
        fsync=False,
        encryption_key=KEY_TEXT,
    )
    counters = Counters(COUNTERS)
    store = await open_store(settings, counters)
    await store.put_if_absent(KEY, CONTAINER, META)
    found = [everything(tmp_path)]
    for _ in range(4):
        assert await store.get(KEY) == [CONTAINER]
    assert counters.snapshot()["memory_bytes"] == stored_size(len(CONTAINER))
    await store.close()
    found.append(everything(tmp_path))
    windows = {CONTAINER[at : at + 16] for at in range(0, len(CONTAINER) - 16, 16)}
    for data in found:
        assert b"KVQSEAL" in data
        assert not any(window in data for window in windows)
    store = await open_store(settings)
    assert await store.get(KEY) == [CONTAINER]
    assert (await store.forget_namespace(META.namespace)).deleted == (KEY,)
    await store.close()


async def test_the_cap_counts_what_is_on_the_medium_to_the_byte(tmp_path: Path) -> None:
    capacity = 40_000
    lower = MemoryBlobs()
    blobs = await sealed(lower, tmp_path)
    index = SqliteIndex(Database(":memory:", iter(range(10**6)).__next__, Lru()))
    store = IndexedStore(blobs, index, capacity, sealed=blobs)
    most = 0

    async def put(number: int, size: int) -> None:
        nonlocal most
        with contextlib.suppress(CapacityError):
            await store.put_if_absent(key_of(number), data_of(number, size), meta_of())
        most = max(most, sum((await lower.sizes()).values()))

    await asyncio.gather(*(put(number, 37 * (number % 40)) for number in range(1, 150)))
    sizes = await lower.sizes()
    assert (await store.usage()).used_bytes == sum(sizes.values()) <= capacity
    assert capacity * 0.9 < most <= capacity
    assert {info.key: info.stored_bytes for info in await store.list()} == sizes
    exact = capacity - stored_size(0)
    assert await store.put_if_absent(key_of(999), data_of(1, exact), meta_of()) is True
    with pytest.raises(CapacityError):
        await store.put_if_absent(key_of(998), data_of(1, exact + 1), meta_of())
    await store.close()


async def test_a_read_of_a_range_reads_and_opens_the_pages_that_it_needs(tmp_path: Path) -> None:
    lower = Watched(MemoryBlobs())
    blobs = await sealed(lower, tmp_path)
    data = data_of(1, 10 * PAGE_BYTES)
    await blobs.write(key_of(1), data)
    assert await blobs.read(key_of(1), [(3 * PAGE_BYTES + 5, 3 * PAGE_BYTES + 9)]) == [data[3 * PAGE_BYTES + 5 :][:4]]
    step = PAGE_BYTES + TAG_BYTES
    header = (0, HEADER_BYTES)
    assert lower.reads == [
        (key_of(1), [header]),
        (key_of(1), [header, (HEADER_BYTES + 3 * step, HEADER_BYTES + 4 * step)]),
    ]
    stored = lower._inner._blobs
    stored[key_of(1)] = stored[key_of(1)][: HEADER_BYTES + 9 * step] + bytes(step)
    assert await blobs.read(key_of(1), [(0, 10)]) == [data[:10]], "damage elsewhere is not looked at"
    with pytest.raises(IntegrityError, match="as it was sealed"):
        await blobs.read(key_of(1), [(0, 10), (10 * PAGE_BYTES - 1, 10 * PAGE_BYTES)])


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_goes_wrong_below_no_wrong_byte_comes_out(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    lower = FaultBlobs(MemoryBlobs(), seed=seed)
    blobs = await sealed(lower, tmp_path)
    versions: dict[bytes, set[bytes]] = {}
    right = wrong = 0
    for step in range(200):
        key = key_of(draw.randrange(3))
        lower.faults = {"read": Faults(error=0.1, truncate=0.2, flip=0.2), "write": Faults(error=0.2, lost_answer=0.2)}
        if draw.random() < 0.3 or key not in versions:
            data = data_of(step, draw.randrange(3 * PAGE_BYTES))
            versions.setdefault(key, set()).add(data)
            with contextlib.suppress(KvquiltError):
                await blobs.write(key, data)
                versions[key] = {data}
            continue
        begin = draw.randrange(PAGE_BYTES)
        ranges = draw.choice([None, [(0, 28)], [(begin, begin + 1000)], [(0, 5), (begin, begin)]])
        try:
            found = await blobs.read(key, ranges)
        except KvquiltError:
            wrong += 1
            continue
        right += 1
        asked = [(0, None)] if ranges is None else ranges
        assert any(found == [data[a:b] for a, b in asked] for data in versions[key])
    assert min(right, wrong) > 20


class Cut(InOnePiece):
    """A blob that comes in pieces of a size."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = data, step

    async def read(self, key: bytes, ranges: Any = None) -> list[bytes]:
        return [self._data]

    async def pieces(self, key: bytes) -> AsyncGenerator[bytes, None]:
        for at in range(0, len(self._data), self._step):
            yield self._data[at : at + self._step]

    def __getattr__(self, name: str) -> Any:
        return getattr(MemoryBlobs(), name)


@pytest.mark.parametrize("size", [0, 5, PAGE_BYTES, 20 * PAGE_BYTES + 9])
async def test_what_comes_in_pieces_is_opened_as_it_comes_and_must_be_all(size: int, tmp_path: Path) -> None:
    lower = MemoryBlobs()
    data = data_of(1, size)
    await (await sealed(lower, tmp_path)).write(key_of(1), data)
    whole = lower._blobs[key_of(1)]

    async def came(stored: bytes, step: int) -> list[bytes]:
        blobs = await sealed(Cut(stored, step), tmp_path)
        return [piece async for piece in blobs.pieces(key_of(1))]

    for step in (50, 70_000, 1 << 20, 1 << 30):
        assert b"".join(await came(whole, step)) == data
        for damaged in (whole[:-1], whole[:50], whole[: 3 * PAGE_BYTES], whole + b"x", whole[:-1] + b"?", b""):
            if damaged != whole:
                with pytest.raises(IntegrityError):
                    await came(damaged, step)


async def test_memory_in_front_holds_sealed_bytes_from_the_second_use_on(tmp_path: Path) -> None:
    async with serving("file", tmp_path, memory_bytes=1 << 20, encryption_key=KEY_TEXT) as node:
        assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
        held = []
        for _ in range(3):
            assert await container_of(node) == CONTAINER
            held.append((await node.counters())["memory_bytes"])
        assert held == [0, stored_size(len(CONTAINER)), stored_size(len(CONTAINER))]
        files(tmp_path)[0].write_bytes(b"damaged")
        assert await container_of(node) == CONTAINER, "from memory"


async def test_a_lost_index_is_rebuilt_from_sealed_objects_and_damaged_ones_go(tmp_path: Path) -> None:
    settings = NodeSettings(path=tmp_path, fsync=False, encryption_key=KEY_TEXT)
    store = await open_store(settings)
    made = [make_object(make_chunk(30, seed=seed), Level.HIGH, f"doc {seed}") for seed in range(3)]
    for key, data, meta in made:
        await store.put_if_absent(key, data, meta)
    sizes = {info.key: info.stored_bytes for info in await store.list()}
    await store.close()
    (tmp_path / "index.sqlite").unlink()
    damaged = tmp_path / "blobs" / made[0][0].hex()[:2] / f"{made[0][0].hex()}.kvq"
    flipped = bytearray(damaged.read_bytes())
    flipped[-20] ^= 1
    damaged.write_bytes(flipped)
    store = await open_store(settings)
    assert {info.key: info.stored_bytes for info in await store.list()} == {key: sizes[key] for key, _, _ in made[1:]}
    assert not damaged.exists()
    for key, data, _ in made[1:]:
        assert await store.get(key) == [data]
    await store.close()


@pytest.mark.parametrize("namespace", OBJECTS)
async def test_a_flipped_bit_is_a_miss_that_lets_the_object_be_stored_again(namespace: str, tmp_path: Path) -> None:
    key, data, meta = OBJECTS[namespace]
    async with serving("file", tmp_path, encryption_key=KEY_TEXT) as node:
        for at in (3, 40, 60, HEADER_BYTES + 5, -1):
            await node.client.put(key, data, meta, deadline=DEADLINE)
            (file,) = files(tmp_path)
            flipped = bytearray(file.read_bytes())
            flipped[at] ^= 4
            file.write_bytes(flipped)
            with pytest.raises(IntegrityError):
                [_ async for _ in node.client.get(key, FINGERPRINT, deadline=DEADLINE)]
            assert await node.used() == (0, 0)
        assert (await node.counters())["objects_damaged"] == 5


# Settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encryption_key": "short"}, "32 random bytes in base64 in node.encryption_key"),
        ({"encryption_key_file": "nothing/there"}, "a file of keys"),
    ],
)
async def test_a_key_that_is_none_is_refused_at_start(given: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises((BadRequestError, NotFoundError), match=said):
        await open_store(NodeSettings(path=tmp_path, **given))


def test_a_key_is_given_once_and_never_shown() -> None:
    with pytest.raises(ValidationError, match="got both"):
        NodeSettings(encryption_key=KEY_TEXT, encryption_key_file="keys")
    assert KEY_TEXT not in repr(NodeSettings(encryption_key=KEY_TEXT))


async def test_without_the_package_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("keyring", "master_keys", "sealed_format", "sealed"):
        monkeypatch.delitem(sys.modules, f"kvquilt_cache_node.store.{name}", raising=False)
    with pytest.raises(BadRequestError, match=r"kvquilt\[encryption\]"):
        await open_store(NodeSettings(path=tmp_path, encryption_key=KEY_TEXT))
