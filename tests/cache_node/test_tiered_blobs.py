"""The memory tier: what comes into it, the cap, changes while something is read, and what others forgot."""

import asyncio
import random

import pytest

from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.store.tiered import TieredBlobs
from kvquilt_cache_node.types import COUNTERS
from kvquilt_codec.errors import IntegrityError, KvquiltError, NotFoundError, UnavailableError
from kvquilt_rpc.counters import Counters
from tests.cache_node.tiers import Watched, tier
from tests.contracts.store_objects import data_of, key_of

CAPACITY = 1000
ONE = key_of(1)


class Tier:
    """A memory tier over watched blobs in memory."""

    def __init__(self) -> None:
        self.lower = Watched(MemoryBlobs())
        self.counters = Counters(COUNTERS)
        self.row: dict[bytes, Stored] = {}
        self.blobs: TieredBlobs = tier(self.lower, CAPACITY, self.look_up, counters=self.counters)

    async def look_up(self, key: bytes) -> Stored | None:
        await asyncio.sleep(0)
        return self.row.get(key)

    async def put(self, number: int, size: int, *, at: float = 0.0) -> None:
        await self.blobs.write(key_of(number), data_of(number, size))
        self.row[key_of(number)] = Stored(at, size)

    async def read_twice(self, *numbers: int) -> None:
        for number in numbers * 2:
            await self.blobs.read(key_of(number))
        self.lower.reads.clear()

    @property
    def held(self) -> int:
        return self.counters.snapshot()["memory_bytes"]

    @property
    def hits(self) -> int:
        return self.counters.snapshot()["memory_hits"]


@pytest.fixture
def memory() -> Tier:
    return Tier()


async def turns() -> None:
    """Let everything that can go on go on, up to where it is held up."""
    for _ in range(10):
        await asyncio.sleep(0)


# What comes into memory


async def test_a_blob_comes_into_memory_with_its_second_use_and_is_served_from_it(memory: Tier) -> None:
    await memory.put(1, 100)
    assert await memory.blobs.read(ONE) == [data_of(1, 100)]
    assert memory.held == 0, "neither a write nor a first read"
    await memory.blobs.read(ONE)
    assert (memory.held, len(memory.lower.reads)) == (100, 2)
    whole = data_of(1, 100)
    assert await memory.blobs.read(ONE, [(90, 100), (0, 5), (7, 7)]) == [whole[90:], whole[:5], b""]
    assert (memory.hits, len(memory.lower.reads)) == (1, 2)


async def test_several_reads_of_parts_are_one_use_and_the_second_use_is_one_read_of_all(memory: Tier) -> None:
    await memory.put(1, 100)
    use = [[(0, 8)], [(0, 20)], [(20, 40), (60, 100)]]
    for _ in range(3):
        for ranges in use:
            expected = [data_of(1, 100)[begin:end] for begin, end in ranges]
            assert await memory.blobs.read(ONE, ranges) == expected
    assert [ranges and [*ranges] for _, ranges in memory.lower.reads] == [*use, None]
    assert memory.hits == 5


async def test_what_is_read_once_pushes_nothing_out(memory: Tier) -> None:
    for number in range(200):
        await memory.put(number, 400)
    await memory.read_twice(1, 2)
    for number in range(3, 200):
        await memory.blobs.read(key_of(number))
    assert {key for key, _ in memory.lower.reads} == {key_of(number) for number in range(3, 200)}
    hits = memory.hits
    await memory.blobs.read(ONE)
    await memory.blobs.read(key_of(2))
    assert memory.hits == hits + 2


async def test_what_is_larger_than_memory_is_read_below_and_pushes_nothing_out(memory: Tier) -> None:
    await memory.put(1, 100)
    await memory.put(2, CAPACITY + 1)
    await memory.read_twice(1)
    for _ in range(3):
        assert await memory.blobs.read(key_of(2), [(5, 9)]) == [data_of(2, 9)[5:]]
    assert memory.held == 100
    assert all(ranges is not None for _, ranges in memory.lower.reads)


@pytest.mark.parametrize("seed", range(4))
async def test_memory_and_loads_under_way_never_exceed_the_cap(memory: Tier, seed: int) -> None:
    draw = random.Random(seed)
    sizes = {number: draw.choice([0, 1, 100, 499, 500, 501, CAPACITY]) for number in range(20)}
    for number, size in sizes.items():
        await memory.put(number, size)
    seen: list[int] = []

    async def work(draw: random.Random) -> None:
        for _ in range(60):
            number = draw.randrange(20)
            if draw.random() < 0.1:
                await memory.put(number, sizes[number])
            # By ranges only, so that whole reads below are loads of the tier.
            got = await memory.blobs.read(key_of(number), [(0, sizes[number])])
            assert got == [data_of(number, sizes[number])]
            seen.append(memory.held + memory.lower.loading)

    await asyncio.gather(*(work(random.Random(f"{seed} {worker}")) for worker in range(8)))
    assert CAPACITY // 2 < max(seen) <= CAPACITY
    assert memory.hits > 0
    await memory.blobs.close()
    assert memory.held == 0


# At the same time


async def test_the_same_read_at_the_same_time_is_one_read_below(memory: Tier) -> None:
    await memory.put(1, 100)
    for ranges in ([(0, 50)], None):
        memory.lower.reads.clear()
        reads = await asyncio.gather(*(memory.blobs.read(ONE, ranges) for _ in range(8)))
        assert reads == [[data_of(1, 50)] if ranges else [data_of(1, 100)]] * 8
        assert len(memory.lower.reads) == 1


async def test_a_load_serves_all_that_want_parts_of_it_meanwhile_also_when_its_reader_goes_away(memory: Tier) -> None:
    await memory.put(1, 100)
    await memory.blobs.read(ONE, [(0, 5)])
    memory.lower.going.clear()
    first = asyncio.create_task(memory.blobs.read(ONE, [(0, 5)]))
    await turns()
    others = [asyncio.create_task(memory.blobs.read(ONE, [(begin, 90)])) for begin in range(5)]
    await turns()
    first.cancel()
    memory.lower.going.set()
    assert await asyncio.gather(*others) == [[data_of(1, 90)[begin:]] for begin in range(5)]
    assert len(memory.lower.reads) == 2
    assert memory.held == 100


async def test_a_read_that_failed_for_one_is_done_again_by_those_that_waited_for_it() -> None:
    watched = Watched(MemoryBlobs())
    lower = FaultBlobs(watched, {"read": Faults(lost_answer=1.0)})
    blobs = tier(lower, CAPACITY)
    await blobs.write(ONE, b"data")
    watched.going.clear()
    first, second = (asyncio.create_task(blobs.read(ONE)) for _ in range(2))
    await turns()
    lower.faults = {}
    watched.going.set()
    with pytest.raises(UnavailableError):
        await first
    assert await second == [b"data"]
    assert len(watched.reads) == 2


# What is deleted or replaced


async def test_what_is_deleted_or_replaced_while_it_is_loaded_does_not_come_into_memory(memory: Tier) -> None:
    for change in ("delete", "write"):
        await memory.put(1, 100)
        await memory.blobs.read(ONE)
        memory.lower.going.clear()
        load = asyncio.create_task(memory.blobs.read(ONE))
        await turns()
        # The index is of no help: its row stays, as of the same time.
        work = memory.blobs.delete(ONE) if change == "delete" else memory.blobs.write(ONE, b"x" * 100)
        changed = asyncio.create_task(work)
        await turns()
        memory.lower.going.set()
        await changed
        assert await load == [data_of(1, 100)]
        assert memory.held == 0
        for _ in range(3):
            if change == "delete":
                with pytest.raises(NotFoundError):
                    await memory.blobs.read(ONE)
            else:
                assert await memory.blobs.read(ONE) == [b"x" * 100]


async def test_what_is_read_while_it_is_being_deleted_does_not_come_into_memory(memory: Tier) -> None:
    await memory.put(1, 100)
    await memory.read_twice(1)
    memory.lower.going.clear()
    delete = asyncio.create_task(memory.blobs.delete(ONE))
    await turns()
    assert memory.held == 0, "it leaves before it is deleted below"
    reads = [asyncio.create_task(memory.blobs.read(ONE)) for _ in range(3)]
    await turns()
    delete.cancel()  # its caller goes away; the medium does what it was told
    await turns()
    reads += [asyncio.create_task(memory.blobs.read(ONE)) for _ in range(3)]
    await turns()
    memory.lower.going.set()
    assert await asyncio.gather(*reads) == [[data_of(1, 100)]] * 6
    assert memory.held == 0
    with pytest.raises(NotFoundError):
        await memory.blobs.read(ONE)


async def test_what_the_index_has_no_more_or_of_another_time_is_not_served_from_memory(memory: Tier) -> None:
    await memory.put(1, 100)
    await memory.read_twice(1)
    memory.row[ONE] = Stored(1.0, 100)
    await memory.blobs.read(ONE)
    assert (memory.hits, len(memory.lower.reads)) == (0, 1), "stored again: loaded again"
    await memory.lower._inner.delete(ONE)  # another node forgets it
    del memory.row[ONE]
    with pytest.raises(NotFoundError):
        await memory.blobs.read(ONE)
    assert memory.held == 0


async def test_a_read_that_waits_for_an_earlier_one_is_not_served_what_was_forgotten_in_between(memory: Tier) -> None:
    await memory.put(1, 100)
    memory.lower.going.clear()
    first = asyncio.create_task(memory.blobs.read(ONE))
    await turns()
    await memory.lower._inner.delete(ONE)
    del memory.row[ONE]
    second = asyncio.create_task(memory.blobs.read(ONE))
    await turns()
    memory.lower.going.set()
    assert await first == [data_of(1, 100)]
    with pytest.raises(NotFoundError):
        await second


# Faults


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_goes_wrong_below_memory_has_no_wrong_byte(seed: int) -> None:
    draw = random.Random(seed)
    inner = MemoryBlobs()
    versions: dict[bytes, Stored] = {}
    lower = FaultBlobs(inner, seed=seed)
    counters = Counters(COUNTERS)

    async def look_up(key: bytes) -> Stored | None:
        return versions.get(key)

    async def check(key: bytes, data: bytes) -> None:
        if data != data_of(key[0], len(data)):
            raise IntegrityError("expected other bytes")

    blobs = tier(lower, CAPACITY, look_up, check=check, counters=counters)
    faults = {
        "read": Faults(error=0.2, lost_answer=0.1, truncate=0.3, flip=0.3),
        "write": Faults(error=0.3, lost_answer=0.3),
        "delete": Faults(error=0.3, lost_answer=0.3),
    }
    for step in range(400):
        number = draw.randrange(6)
        key, size = key_of(number), 100 + 50 * number
        lower.faults = faults if draw.random() < 0.7 else {}
        try:
            match draw.choice(["read"] * 8 + ["write", "delete"]):
                case "write":
                    versions.pop(key, None)
                    await blobs.write(key, data_of(number, size))
                    versions[key] = Stored(float(step), size)
                case "delete":
                    versions.pop(key, None)
                    await blobs.delete(key)
                case _:
                    hits = counters.snapshot()["memory_hits"]
                    (data,) = await blobs.read(key)
                    if counters.snapshot()["memory_hits"] > hits or not lower.faults:
                        assert data == data_of(number, size)
        except KvquiltError:
            pass
        assert counters.snapshot()["memory_bytes"] <= CAPACITY
    assert counters.snapshot()["memory_hits"] > 20
    assert lower.done.keys() == {"error", "lost_answer", "truncate", "flip"}
