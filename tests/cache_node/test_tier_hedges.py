"""Hedged reads of two tiers: when the second is asked, how often, who is cancelled, and that nothing is mixed."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_cache_node.store.hedging import Hedge
from kvquilt_cache_node.types import COUNTERS, ByteRange
from kvquilt_codec.errors import NotFoundError, UnavailableError
from kvquilt_rpc.counters import Counters
from tests.cache_node.stacks import Gated, Tiers, until
from tests.contracts.store_objects import key_of


class Source:
    """A source that answers when it is told to."""

    def __init__(self, answer: list[bytes] | None) -> None:
        self.answer = answer
        self.going = asyncio.Event()
        self.asked = self.cancelled = 0

    async def read(self) -> list[bytes] | None:
        self.asked += 1
        try:
            await self.going.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.answer


class Race:
    """A hedge that knows reads of a millisecond."""

    def __init__(self) -> None:
        self.counters = Counters(COUNTERS)
        self.now = 0.0
        self.hedge = Hedge(self.counters.add, lambda: self.now)
        self.first, self.second = Source([b"hot"]), Source([b"cold"])
        self.lost = 0

    async def warm(self) -> "Race":
        quick = Source([b"hot"])
        quick.going.set()
        for _ in range(64):
            self.now += 0.001
            await self.hedge.race(quick.read, self.second.read, self.lose)
            self.hedge._latencies.add(0.001)
        return self

    def lose(self) -> None:
        self.lost += 1

    def start(self) -> asyncio.Task[list[bytes] | None]:
        async def run() -> list[bytes] | None:
            return (await self.hedge.race(self.first.read, self.second.read, self.lose)).found

        return asyncio.create_task(run())


async def test_a_late_read_is_raced_and_the_loser_is_cancelled() -> None:
    race = await Race().warm()
    reading = race.start()
    await until(lambda: race.second.asked)
    race.second.going.set()
    assert await reading == [b"cold"]
    assert (race.first.cancelled, race.lost) == (1, 1)
    race.second = Source([b"cold"])
    reading = race.start()
    await until(lambda: race.second.asked)
    race.first.going.set()
    assert await reading == [b"hot"]
    assert (race.second.cancelled, race.lost) == (1, 1)
    counters = race.counters.snapshot()
    assert (counters["tier_hedges"], counters["tier_hedges_won"]) == (2, 1)


async def test_there_is_no_hedge_before_it_is_known_what_is_late() -> None:
    race = Race()
    reading = race.start()
    await asyncio.sleep(0.05)
    assert race.second.asked == 0
    race.first.going.set()
    assert await reading == [b"hot"]


async def test_hedges_are_a_tenth_of_reads_at_most_and_five() -> None:
    race = await Race().warm()
    race.second.going.set()
    reads = 200
    for _ in range(reads):
        race.first = Source([b"hot"])
        reading = race.start()
        before = race.second.asked
        await until(lambda: race.second.asked > before or race.hedge._budget._tokens < 1)  # noqa: B023
        race.first.going.set()
        assert await reading in ([b"hot"], [b"cold"])
    assert 0 < race.counters.snapshot()["tier_hedges"] <= 5 + reads / 10


@pytest.mark.parametrize("first", [[b"hot"], None])
async def test_a_second_source_that_fails_counts_only_where_the_first_has_nothing(first: list[bytes] | None) -> None:
    race = await Race().warm()
    race.first.answer = first

    async def fail() -> list[bytes] | None:
        race.second.asked += 1
        raise UnavailableError("down")

    running = asyncio.create_task(race.hedge.race(race.first.read, fail, race.lose))
    await until(lambda: race.second.asked)
    race.first.going.set()
    if first is None:
        with pytest.raises(UnavailableError):
            await running
    else:
        assert (await running).found == first


async def test_answers_of_two_tiers_are_never_mixed() -> None:
    """Both are late at times, the hot one lies at times, blobs are replaced meanwhile: every read is of one writing."""
    tiers = Tiers()
    late = Faults(latency=0.002, slow=0.3)
    tiers.faults.faults = {"read": Faults(latency=0.002, slow=0.3, flip=0.2)}
    tiers.lower = Gated(FaultBlobs(MemoryBlobs(), {"read": late}))
    await tiers.open()
    versions: dict[bytes, set[bytes]] = {}
    done = asyncio.Event()

    async def write() -> None:
        for version in range(30):
            for number in range(3):
                byte = bytes([version * 3 + number])
                versions.setdefault(key_of(number), set()).add(byte)
                tiers.rows.pop(key_of(number), None)
                await tiers.blobs.write(key_of(number), byte * 150_000)
                tiers.rows[key_of(number)] = Stored(float(version), 150_000)
            await asyncio.sleep(0.02)
        done.set()

    async def read(draw: random.Random) -> None:
        spans: Sequence[ByteRange] = [(0, 10), (70_000, 70_010), (149_990, 150_000)]
        while not done.is_set():
            key = key_of(draw.randrange(3))
            try:
                pieces = await tiers.blobs.read(key, None if draw.random() < 0.5 else spans)
            except NotFoundError:
                continue
            assert len({piece[:1] for piece in pieces}) == 1
            assert all(piece == piece[:1] * len(piece) for piece in pieces)
            assert pieces[0][:1] in versions[key]
            await asyncio.sleep(0)

    await asyncio.gather(write(), *(read(random.Random(worker)) for worker in range(4)))
    assert tiers.count("hot_hits") > 20
    assert tiers.count("hot_damaged") > 0
    await tiers.blobs.close()
