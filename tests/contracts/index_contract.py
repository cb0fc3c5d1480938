"""What every `Index` promises. To test one of yours, subclass and say how it is opened:

    class TestMyIndex(IndexContract):
        async def open_indexes(self, folder, clock):
            return [await MyIndex.open(folder, clock)]

`folder` is empty and the test's own. An index that nodes can share is opened twice, and both are returned. `clock`
gives another, later time at every call (an index with a clock of its own may ignore it).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from kvquilt_cache_node.index_types import Index, Stored
from kvquilt_codec.catalog import GateMeta, Meta, ProfileMeta
from kvquilt_codec.errors import CapacityError, UnavailableError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace, Departed
from kvquilt_codec.types import Level
from tests.contracts.index_machine import make_machine
from tests.contracts.store_objects import (
    CAPACITY,
    MODEL,
    TTL,
    Clock,
    Ticking,
    digest_of,
    fingerprint_of,
    key_of,
    meta_of,
    ticking,
)


async def store(index: Index, number: int, size: int = 100, meta: Meta | None = None) -> list[bytes]:
    """Store a numbered object, whose bytes are nowhere; return what had to go."""
    victims = await index.reserve(key_of(number), size, CAPACITY)
    assert victims is not None
    await index.commit(key_of(number), size, meta or meta_of())
    await index.deleted([victim for victim in victims if victim != key_of(number)])
    return list(victims)


class IndexContract(ABC):
    """See the module."""

    @abstractmethod
    async def open_indexes(self, folder: Path, clock: Clock) -> list[Index]:
        """Open an empty index, as often as it may be opened."""

    spared_counts_as_used: bool
    """Whether what is not evicted because it is being read counts as used then."""

    async def later(self, index: Index, clock: Ticking, seconds: float) -> None:
        """Let time pass for an index; to be overridden where it does not go by `clock`."""
        clock.now += seconds

    @pytest.fixture
    def clock(self) -> Ticking:
        return ticking()

    @pytest.fixture
    async def indexes(self, tmp_path: Path, clock: Ticking) -> AsyncIterator[list[Index]]:
        opened = await self.open_indexes(tmp_path, clock)
        yield opened
        for index in opened:
            await index.close()

    @pytest.fixture
    def index(self, indexes: list[Index]) -> Index:
        return indexes[0]

    async def test_a_row_gives_back_what_was_said_of_the_object(self, indexes: list[Index]) -> None:
        meta = meta_of("b", "a", chunk=1, fingerprints=[3, 4], namespace="team-a")
        await store(indexes[0], 1, 123, meta)
        (info,) = await indexes[-1].find([key_of(1), key_of(2), key_of(1)])
        assert (info.key, info.stored_bytes, info.use_count) == (key_of(1), 123, 0)
        assert info.meta == meta_of("a", "b", chunk=1, namespace="team-a"), "documents sorted, no fingerprints"
        assert await indexes[-1].stored(key_of(1)) == Stored(info.created, 123)
        assert info.created == info.last_used

    async def test_thousands_of_keys_can_be_asked_at_once(self, index: Index) -> None:
        await store(index, 3000, 10, meta_of("doc", chunk=7, fingerprints=[11]))
        keys = [key_of(number) for number in range(4096)]
        assert [info.key for info in await index.find(keys)] == [key_of(3000)]
        assert await index.use(keys, ["other"]) == [key_of(3000)]
        chunks = [digest_of(number) for number in range(1000)]
        assert list(await index.find_variants(chunks, MODEL, digest_of(0), 4)) == [digest_of(7)]
        asked = [fingerprint_of(number) for number in reversed(range(1001))]
        assert [match.fingerprint for match in await index.find_chunks(asked, MODEL, 4)] == [989]
        assert await index.remove(keys) == ({key_of(3000): 10}, 0)

    async def test_all_objects_come_page_by_page_whatever_is_stored_and_removed_meanwhile(self, index: Index) -> None:
        # So many that a hash in Redis does not come as a whole.
        for number in range(700):
            await store(index, number, 1, meta_of("doc", chunk=number, namespace="team-a"))
        await store(index, 1000, 1, ProfileMeta(MODEL))
        await store(index, 1001, 1, GateMeta(MODEL, key_of(1000).hex()))
        seen: list[bytes] = []
        largest = 0
        async for page in index.pages(100):
            largest = max(largest, len(page))
            if not seen:
                (first,) = await index.find([page[0].key])
                assert page[0] == first, "documents and namespace and all"
                await index.remove([key_of(number) for number in range(600, 700)])
                await store(index, 2000, 1, meta_of("doc", chunk=2000))
            seen += [info.key for info in page]
        assert largest < 300
        assert {key_of(number) for number in range(600)} <= set(seen)
        assert set(seen) <= {key_of(number) for number in (*range(700), 2000)}, "no profile and no gate"
        assert len(seen) == len(set(seen)), "nothing made Redis rehash meanwhile"

    async def test_hundreds_can_go_at_once(self, index: Index) -> None:
        for number in range(400):
            await store(index, number, 1, meta_of("doc", chunk=number))
        assert len(await store(index, 1000, CAPACITY - 50)) == 350
        dropped, _ = await index.remove([], ["doc"])
        assert dropped == {key_of(number): 1 for number in range(350, 400)}
        assert (await index.usage(CAPACITY)).used_bytes == CAPACITY - 50

    async def test_what_is_named_and_held_takes_the_variants_that_nobody_holds_with_it(self, index: Index) -> None:
        await store(index, 1, 100, meta_of("one"))
        await store(index, 2, 50)
        assert await index.remove([key_of(1)], ["one"]) == ({key_of(1): 100, key_of(2): 50}, 0)

    async def test_a_profile_goes_after_its_objects_and_with_the_last_of_them_if_all_must(self, index: Index) -> None:
        form = StorageForm(Level.HIGH, key_of(50).hex())
        await store(index, 50, 10, ProfileMeta(MODEL))
        await store(index, 51, 10, GateMeta(MODEL, key_of(50).hex()))
        await store(index, 1, 10, meta_of(form=form))
        assert await store(index, 2, CAPACITY - 25) == [key_of(1)]
        assert set(await store(index, 3, CAPACITY)) == {key_of(50), key_of(51), key_of(2)}

    async def test_a_reservation_counts_until_it_is_given_back(self, index: Index) -> None:
        await store(index, 1, 400)
        assert await index.reserve(key_of(2), 600, CAPACITY) == []
        assert (await index.usage(CAPACITY)).used_bytes == 1000
        with pytest.raises(CapacityError, match="at most 400 bytes under the cap of 1000; got 401") as caught:
            await index.reserve(key_of(3), 401, CAPACITY)
        assert caught.value.reason == "over_cap"
        assert len(await index.find()) == 1, "for what cannot be nothing goes"
        assert await index.reserve(key_of(2), 500, CAPACITY) == [], "a new size for what one holds"
        assert (await index.usage(CAPACITY)).used_bytes == 900
        await index.release([key_of(2), key_of(9)])
        await index.release([key_of(2)])
        usage = await index.usage(CAPACITY)
        assert (usage.objects, usage.used_bytes) == (1, 400)

    async def test_nothing_is_entered_without_a_reservation(self, index: Index) -> None:
        with pytest.raises(UnavailableError) as caught:
            await index.commit(key_of(1), 10, meta_of())
        assert caught.value.reason == "lease_lost"
        assert await index.sizes() == {}

    async def test_what_is_there_is_not_reserved_again(self, indexes: list[Index]) -> None:
        await store(indexes[0], 1)
        assert await indexes[-1].reserve(key_of(1), 10, CAPACITY) is None
        assert (await indexes[-1].usage(CAPACITY)).used_bytes == 100

    async def test_bytes_may_be_deleted_only_while_there_is_no_row(self, index: Index) -> None:
        await store(index, 1)
        assert not await index.may_delete(key_of(1))
        await index.remove([key_of(1)])
        assert await index.may_delete(key_of(1))
        await store(index, 1)
        assert not await index.may_delete(key_of(1)), "stored again meanwhile"

    async def test_a_row_whose_bytes_are_lost_goes_unless_it_was_stored_again(self, indexes: list[Index]) -> None:
        await store(indexes[0], 1, 100, meta_of("doc"))
        first = await indexes[0].stored(key_of(1))
        assert first is not None
        await indexes[0].remove([key_of(1)])
        await indexes[0].deleted([key_of(1)])
        assert await indexes[0].stored(key_of(1)) is None
        await store(indexes[-1], 1, 100, meta_of("doc"))
        assert not await indexes[0].remove_lost(key_of(1), first.at)
        second = await indexes[0].stored(key_of(1))
        assert second is not None
        assert await indexes[0].remove_lost(key_of(1), second.at)
        assert await indexes[-1].remove([], ["doc"]) == ({}, 0)
        assert (await indexes[-1].usage(CAPACITY)).used_bytes == 0

    async def test_it_remembers_why_an_object_left_until_it_leaves_again(self, indexes: list[Index]) -> None:
        first, last = indexes[0], indexes[-1]
        places = [ChunkPlace(digest_of(number), digest_of(0)) for number in range(6)]

        async def reasons() -> list[str]:
            departed = (await last.trace(places, 4, (PUBLIC,))).departed
            return [departed[place].reason if place in departed else "" for place in places]

        for number in range(1, 5):
            await store(first, number, 100, meta_of("doc" if number == 1 else "other", chunk=number))
        await first.remove([], ["doc"])
        await first.remove([key_of(2)], reason="damaged")
        await first.release([key_of(1), key_of(2)])
        lost = await first.stored(key_of(3))
        assert lost is not None
        assert await first.remove_lost(key_of(3), lost.at)
        assert await store(first, 9, CAPACITY, meta_of(chunk=5)) == [key_of(4)]
        assert await reasons() == ["", "forgotten", "damaged", "lost", "evicted", ""]
        assert await store(first, 1, 10, meta_of(chunk=1)) == [key_of(9)]
        assert (await reasons())[1] == "forgotten", "that it is there again changes nothing of what was"
        await first.remove([key_of(1)], reason="")
        assert (await reasons())[1] == "forgotten", "it may leave without a trace"
        trace = await last.trace(places, 4, (PUBLIC,))
        assert (trace.objects, trace.models) == ({}, {MODEL})
        times = [trace.departed[place].at for place in places[1:5]]
        assert times == sorted(times)
        other = ChunkPlace(places[1].chunk_key, digest_of(7))
        assert (await last.trace([other], 4, (PUBLIC,))).departed == {}, "after another prefix nothing left"
        assert (await last.trace(places, 4, ("team-a", "team-b"))).departed == {}, "nothing of theirs left"

    async def test_what_expired_left_when_it_did_before_and_after_its_row_is_dropped(
        self, indexes: list[Index], clock: Ticking
    ) -> None:
        first, last = indexes[0], indexes[-1]
        place = ChunkPlace(digest_of(1), digest_of(0))

        async def left() -> Departed | None:
            trace = await last.trace([place], 4, (PUBLIC,))
            assert trace.objects == {}
            return trace.departed.get(place)

        await store(first, 1, 10, meta_of(chunk=1, ttl=TTL))
        assert (await last.trace([place], 4, (PUBLIC,))).departed == {}
        await self.later(first, clock, 3 * TTL)
        before = await left()
        assert await first.overdue(10) == [key_of(1)]
        after = await left()
        assert before is not None
        assert after is not None
        assert before.reason == after.reason == "expired"
        assert abs(before.at - after.at) < TTL, "and not when it was dropped"
        await store(first, 2, 10, meta_of(chunk=1, ttl=TTL))
        await store(first, 3, 10, meta_of(chunk=1))
        await self.later(first, clock, 2 * TTL)
        await first.remove([key_of(3)], reason="damaged")
        await first.deleted([key_of(3)])
        assert key_of(2) in await first.overdue(10)
        now = await left()
        assert now is not None
        assert now.reason == "damaged", "it left later than what expired"

    async def test_objects_of_a_text_are_traced_whatever_preceded_them(self, indexes: list[Index]) -> None:
        for number in range(3):
            await store(indexes[0], number, 10, meta_of(chunk=1, prefix=number))
        await store(indexes[0], 5, 10, meta_of(chunk=2))
        place = ChunkPlace(digest_of(1), digest_of(9))
        found = (await indexes[-1].trace([place, place], 2)).objects
        assert {chunk: [info.key for info in infos] for chunk, infos in found.items()} == {
            digest_of(1): [key_of(2), key_of(1)]
        }

    async def test_the_cap_holds_at_every_moment_under_concurrent_writers(self, indexes: list[Index]) -> None:
        seen: list[int] = []
        refused: list[int] = []

        async def write(writer: int) -> None:
            index = indexes[writer % len(indexes)]
            for number in range(12):
                try:
                    await store(index, writer * 100 + number, 50 + 37 * ((writer + number) % 7))
                except CapacityError:
                    refused.append(number)
                seen.append((await index.usage(CAPACITY)).used_bytes)

        await asyncio.gather(*(write(writer) for writer in range(6)))
        assert max(seen) <= CAPACITY
        assert len(refused) < 6 * 12 / 2, "refused only while others' unfinished writes fill the cap"
        sizes = await indexes[0].sizes()
        assert (await indexes[-1].usage(CAPACITY)).used_bytes == sum(sizes.values())

    def test_any_sequence_of_calls_agrees_with_a_simple_model(self, tmp_path: Path) -> None:
        moves = self.spared_counts_as_used
        run_state_machine_as_test(make_machine(self.open_indexes, tmp_path, self.later, moves=moves))
