"""The hot tier: what is copied, what copies prove, what happens when it fails or is full, and what is forgotten."""

import asyncio
import itertools
import random

import pytest

from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.envelope import BLOCK_BYTES, size_in
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_codec.errors import IntegrityError, NotFoundError, UnavailableError
from tests.cache_node.stacks import Tiers, hot_first, until
from tests.contracts.store_objects import key_of

ONE = key_of(1)
DOWN = {"read": Faults(error=1.0), "write": Faults(error=1.0), "delete": Faults(error=1.0)}


@pytest.fixture
async def tiers() -> Tiers:
    return await Tiers().open()


# What is copied, and what it proves


async def test_a_blob_is_copied_with_its_second_use_and_then_read_from_there(tiers: Tiers) -> None:
    data = await tiers.put(1, 200_000)
    for _ in range(2):
        assert await tiers.blobs.read(ONE, [(5, 10)]) == [data[5:10]]
    await until(lambda: tiers.count("hot_bytes"))
    assert tiers.count("hot_bytes") == size_in(200_000)
    tiers.lower.calls.clear()
    ranges = [(BLOCK_BYTES - 1, BLOCK_BYTES + 1), (0, 1), (7, 7), (199_990, 200_000)]
    assert await tiers.blobs.read(ONE, ranges) == [data[begin:end] for begin, end in ranges]
    assert await tiers.blobs.read(ONE) == [data]
    assert (tiers.lower.calls, tiers.count("hot_hits"), tiers.count("cold_reads")) == ([], 2, 2)
    with pytest.raises(IntegrityError, match="within 200000 bytes"):
        await tiers.blobs.read(ONE, [(0, 200_001)])


async def test_the_load_of_a_memory_tier_is_a_use(tiers: Tiers) -> None:
    await tiers.put(1, 1000)
    await tiers.blobs.read(ONE, [(0, 10)])
    await tiers.blobs.read(ONE, [(10, 900)])
    assert tiers.count("hot_bytes") == 0, "parts of one use"
    await tiers.blobs.read(ONE)
    await until(lambda: tiers.count("hot_bytes"))


async def test_what_is_read_once_or_larger_than_the_tier_or_damaged_is_not_copied() -> None:
    async def refuse(key: bytes, data: bytes) -> None:
        if key == key_of(2):
            raise IntegrityError("damaged")

    tiers = await Tiers().open(2000, check=refuse)
    await tiers.put(1, 100)
    await tiers.blobs.read(ONE)
    for number, size in ((2, 100), (3, 2000)):
        data = await tiers.put(number, size)
        for _ in range(3):
            assert await tiers.blobs.read(key_of(number)) == [data]
    await tiers.blobs.close()
    assert tiers.hot.calls == []


async def test_a_copy_of_what_was_stored_at_another_time_is_not_used_and_replaced(tiers: Tiers) -> None:
    await tiers.copied(1)
    # As another node does it, which shares the index and the store, not the hot tier.
    data = random.Random(9).randbytes(1000)
    await tiers.lower.write(ONE, data)
    tiers.rows[ONE] = Stored(2.0, 1000)
    assert await tiers.blobs.read(ONE) == [data]
    assert tiers.count("hot_damaged") == 0
    await tiers.blobs.read(ONE)
    await until(lambda: ("write", ONE) in tiers.hot.calls)
    assert await tiers.blobs.read(ONE) == [data]
    del tiers.rows[ONE]
    await tiers.lower.delete(ONE)
    with pytest.raises(NotFoundError):
        await tiers.blobs.read(ONE)


@pytest.mark.parametrize("place", ["at", "digest", "data"])
async def test_a_flipped_bit_is_found_also_in_parts_and_read_below(tiers: Tiers, place: str) -> None:
    data = await tiers.copied(1, 200_000)
    (sealed,) = await tiers.medium.read(ONE)
    spoilt = bytearray(sealed)
    spoilt[{"at": 8, "digest": 40, "data": -70_000}[place]] ^= 1
    await tiers.medium.write(ONE, bytes(spoilt))
    whole = [(120_000, 140_000), (0, 10)]
    assert await tiers.blobs.read(ONE, whole) == [data[begin:end] for begin, end in whole]
    assert tiers.lower.calls == [("read", ONE)]
    assert tiers.count("hot_damaged") == (place != "at")
    assert tiers.count("hot_bytes") == 0
    assert await tiers.medium.sizes() == {}


# What is forgotten


async def test_what_is_forgotten_leaves_the_tier_and_is_missed_though_the_tier_is_down(tiers: Tiers) -> None:
    await tiers.copied(1)
    await tiers.copied(2)
    await tiers.forget(1)
    assert ONE not in await tiers.medium.sizes()
    tiers.faults.faults = DOWN
    await tiers.forget(2)
    tiers.faults.faults = {}
    with pytest.raises(NotFoundError):
        await tiers.blobs.read(key_of(2))
    await until(lambda: tiers.count("hot_bytes") == 0)
    assert await tiers.medium.sizes() == {}, "as soon as it is back"
    await tiers.blobs.close()


async def test_what_is_forgotten_while_it_is_copied_does_not_stay(tiers: Tiers) -> None:
    await tiers.put(1, 1000)
    tiers.hot.going.clear()
    for _ in range(2):
        await tiers.blobs.read(ONE)
    await until(lambda: ("write", ONE) in tiers.hot.calls)
    await tiers.forget(1)
    tiers.hot.going.set()
    await until(lambda: tiers.count("hot_bytes") == 0)
    assert await tiers.medium.sizes() == {}


async def test_a_start_takes_over_what_is_stored_still_within_the_cap(tiers: Tiers) -> None:
    data = {number: await tiers.copied(number, 1000, at=float(number)) for number in range(1, 6)}
    del tiers.rows[key_of(2)]
    await tiers.lower.delete(key_of(2))
    await tiers.medium.write(key_of(77), b"left by another program")
    again = Tiers()
    again.lower, again.medium, again.hot, again.rows = tiers.lower, tiers.medium, tiers.hot, tiers.rows
    await again.open(3 * size_in(1000))
    kept = set(await tiers.medium.sizes())
    assert len(kept) == 3
    assert kept < {key_of(number) for number in (1, 3, 4, 5)}
    for number in (1, 3, 4, 5):
        assert await again.blobs.read(key_of(number)) == [data[number]]
    assert again.count("hot_hits") == 3


# Faults


async def test_a_tier_that_fails_is_passed_over_then_left_alone_and_used_again(tiers: Tiers) -> None:
    data = await tiers.copied(1)
    tiers.faults.faults = DOWN
    for _ in range(8):
        assert await tiers.blobs.read(ONE) == [data]
    assert len(tiers.hot.calls) == 5, "the breaker opened"
    assert tiers.count("hot_skipped") == 5
    tiers.faults.faults = {}
    while tiers.count("hot_hits") == 0:
        assert await tiers.blobs.read(ONE) == [data]
        await asyncio.sleep(0.02)


async def test_a_tier_that_never_answers_costs_its_timeout_a_few_times_and_no_read() -> None:
    tiers = await Tiers().open(timeout=0.01)
    data = await tiers.copied(1)
    tiers.faults.faults = {"read": Faults(blackhole=1.0)}
    for _ in range(20):
        assert await tiers.blobs.read(ONE) == [data]
    assert tiers.count("hot_skipped") == 5
    await tiers.blobs.close()


async def test_what_only_the_store_has_is_missed_when_it_is_down_and_a_copy_is_served(tiers: Tiers) -> None:
    data = await tiers.copied(1)
    await tiers.put(2, 100)
    faulty = FaultBlobs(MemoryBlobs(), {"read": Faults(error=1.0)})
    tiers.blobs._lower = faulty
    assert await tiers.blobs.read(ONE) == [data]
    with pytest.raises(UnavailableError):
        await tiers.blobs.read(key_of(2))


async def test_a_tier_that_is_down_at_the_start_is_used_once_it_is_there() -> None:
    tiers = Tiers()
    tiers.faults.faults = {**DOWN, "sizes": Faults(error=1.0)}
    await tiers.open()
    data = await tiers.put(1, 100)
    for _ in range(3):
        assert await tiers.blobs.read(ONE) == [data]
    assert tiers.hot.calls == []
    tiers.faults.faults = {}
    while tiers.count("hot_hits") == 0:
        assert await tiers.blobs.read(ONE) == [data]
        await asyncio.sleep(0.02)
    await tiers.blobs.close()


async def test_a_tier_that_refuses_the_credentials_ends_the_start() -> None:
    class Refusing(MemoryBlobs):
        async def sizes(self) -> dict[bytes, int]:
            raise UnavailableError("expected other credentials", reason="store_refused")

    with pytest.raises(UnavailableError, match="credentials"):
        await hot_first(MemoryBlobs(), Refusing(), 1000)


@pytest.mark.parametrize("seed", range(3))
async def test_the_medium_never_holds_more_than_the_cap_whatever_fails(seed: int) -> None:
    tiers = Tiers()
    capacity = 10 * size_in(1000)
    await tiers.open(capacity, clock=itertools.count(0.0, 0.2).__next__)
    draw = random.Random(seed)
    wrong = Faults(error=0.1, lost_answer=0.1)
    tiers.faults.faults = {"read": Faults(error=0.05, flip=0.1), "write": wrong, "delete": wrong}
    data = {number: await tiers.put(number, draw.choice([10, 1000, 3000, 9000])) for number in range(12)}
    largest = 0
    for step in range(400):
        number = min(draw.randrange(12), draw.randrange(12))
        if step % 50 == 49:
            await tiers.forget(number)
            data[number] = await tiers.put(number, draw.choice([10, 1000, 3000]), at=float(step))
        assert await tiers.blobs.read(key_of(number)) == [data[number]]
        await until(lambda: not tiers.blobs._copies)
        held = sum((await tiers.medium.sizes()).values())
        assert held <= capacity
        assert held <= tiers.count("hot_bytes") <= capacity
        largest = max(largest, held)
    assert largest > capacity // 2
    assert tiers.count("hot_hits") > 10
    await tiers.blobs.close()


async def test_a_copy_that_is_read_stays_longer_than_one_that_is_not(tiers: Tiers) -> None:
    tiers = await Tiers().open(3 * size_in(1000))
    await tiers.copied(1)
    for number in range(2, 12):
        for _ in range(4):
            await tiers.blobs.read(ONE)
        await tiers.copied(number)
    hits = tiers.count("hot_hits")
    await tiers.blobs.read(ONE)
    assert tiers.count("hot_hits") == hits + 1
