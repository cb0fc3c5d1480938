"""What every `Store` promises. To test one of yours, subclass and say how it is opened:

    class TestMyStore(StoreContract):
        async def open_store(self, folder, capacity, clock):
            return await MyStore.open(folder, capacity, clock)

Run it with pytest-asyncio in auto mode. `folder` is empty and the test's own; `clock` gives another, later time at
every call (a store with a clock of its own may ignore it).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from kvquilt_cache_node.types import Store
from kvquilt_codec.errors import BadRequestError, CapacityError, IntegrityError, NotFoundError
from tests.contracts.store_documents import DocumentsContract
from tests.contracts.store_gates import GatesContract
from tests.contracts.store_lookup import LookupContract
from tests.contracts.store_machine import make_machine
from tests.contracts.store_objects import (
    CAPACITY,
    Clock,
    Ticking,
    assert_sound,
    data_of,
    key_of,
    keys_in,
    meta_of,
    put,
    ticking,
)
from tests.contracts.store_profiles import ProfilesContract


class StoreContract(DocumentsContract, GatesContract, LookupContract, ProfilesContract, ABC):
    """See the module."""

    @abstractmethod
    async def open_store(self, folder: Path, capacity: int, clock: Clock) -> Store:
        """Open an empty store of `capacity` bytes."""

    async def later(self, store: Store, clock: Ticking, seconds: float) -> None:
        """Let time pass for a store; to be overridden where it does not go by `clock`."""
        clock.now += seconds

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        opened = await self.open_store(tmp_path, CAPACITY, ticking())
        yield opened
        await opened.close()

    # Reading and writing

    async def test_a_new_store_is_empty(self, store: Store) -> None:
        usage = await store.usage()
        assert (usage.objects, usage.used_bytes, usage.capacity_bytes) == (0, 0, CAPACITY)
        assert await store.list() == []
        assert store.name
        assert isinstance(store.durable, bool)

    @pytest.mark.parametrize("size", [0, 1, 999, CAPACITY])
    async def test_what_is_put_is_got(self, store: Store, size: int) -> None:
        assert await put(store, 1, size) is True
        assert await store.get(key_of(1)) == [data_of(1, size)]
        await assert_sound(store)

    async def test_ranges_are_got_in_the_order_asked(self, store: Store) -> None:
        await put(store, 1, 100)
        whole = data_of(1, 100)
        ranges = [(90, 100), (0, 1), (5, 5), (10, 60), (0, 100), (100, 100)]
        assert await store.get(key_of(1), ranges) == [whole[begin:end] for begin, end in ranges]
        assert await store.get(key_of(1), []) == []

    @pytest.mark.parametrize("wrong", [(0, 101), (-1, 5), (60, 50), (101, 101), (2**40, 2**40 + 1)])
    async def test_a_range_outside_the_object_is_an_integrity_error(self, store: Store, wrong: tuple[int, int]) -> None:
        await put(store, 1, 100)
        with pytest.raises(IntegrityError, match="within 100 bytes"):
            await store.get(key_of(1), [(0, 10), wrong])
        assert await store.get(key_of(1)) == [data_of(1, 100)], "the object stays"

    @pytest.mark.parametrize("ranges", [None, [(0, 1)], []])
    async def test_what_was_never_put_is_not_found(self, store: Store, ranges: list[tuple[int, int]] | None) -> None:
        with pytest.raises(NotFoundError):
            await store.get(key_of(1), ranges)

    @pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
    async def test_keys_of_another_length_are_refused(self, store: Store, key: bytes) -> None:
        with pytest.raises(BadRequestError, match="32 bytes"):
            await store.put_if_absent(key, b"data", meta_of())
        with pytest.raises(BadRequestError, match="32 bytes"):
            await store.get(key)
        await assert_sound(store)

    async def test_an_object_keeps_its_bytes_though_the_caller_changes_its_buffer(self, store: Store) -> None:
        buffer = bytearray(data_of(1, 100))
        await store.put_if_absent(key_of(1), buffer, meta_of())
        buffer[:] = bytes(100)
        assert await store.get(key_of(1)) == [data_of(1, 100)]

    # Putting twice

    async def test_a_second_put_keeps_the_first_bytes_and_adds_its_documents(self, store: Store) -> None:
        assert await put(store, 1, 100, "one") is True
        assert await store.put_if_absent(key_of(1), b"other bytes", meta_of("two", "one")) is False
        assert await store.get(key_of(1)) == [data_of(1, 100)]
        info = (await store.stat([key_of(1)]))[key_of(1)]
        assert set(info.meta.document_ids) == {"one", "two"}
        await assert_sound(store)

    async def test_of_concurrent_puts_of_one_key_one_stores_and_all_documents_hold_it(self, store: Store) -> None:
        results = await asyncio.gather(*(put(store, 1, 900, f"doc {i}") for i in range(8)))
        assert sorted(results) == [False] * 7 + [True], "the cap has room for one: the others found it done"
        info = (await store.stat([key_of(1)]))[key_of(1)]
        assert set(info.meta.document_ids) == {f"doc {i}" for i in range(8)}
        await assert_sound(store)

    async def test_a_cancelled_put_leaves_no_reservation(self, store: Store) -> None:
        for steps in range(12):
            task = asyncio.create_task(put(store, 1, 900))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await put(store, 1, 900)  # waits for what the cancelled one may still be doing
            await assert_sound(store)
            await store.forget([key_of(1)], [])
            assert (await store.usage()).used_bytes == 0

    async def test_a_cancelled_forget_leaves_no_bytes_without_a_row(self, store: Store) -> None:
        for steps in range(12):
            await put(store, 1, 900, "one")
            task = asyncio.create_task(store.forget([], ["one"]))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await put(store, 2, 900)  # waits for what the cancelled one may still be doing
            with pytest.raises(NotFoundError):  # forgotten or evicted
                await store.get(key_of(1))
            await assert_sound(store)
            await store.forget([key_of(2)], [])

    # The cap

    async def test_the_cap_can_be_filled_to_the_last_byte(self, store: Store) -> None:
        for number in range(10):
            await put(store, number, 100)
        assert (await store.usage()).used_bytes == CAPACITY
        assert len(await store.list()) == 10, "nothing had to go"
        await put(store, 10, 1)
        assert len(await store.list()) == 10, "one had to go for one byte more"
        await assert_sound(store)

    async def test_an_object_larger_than_the_cap_is_refused_and_nothing_is_lost(self, store: Store) -> None:
        for number in range(10):
            await put(store, number, 100)
        with pytest.raises(CapacityError, match="at most 1000 bytes") as caught:
            await put(store, 99, CAPACITY + 1)
        assert caught.value.reason == "over_cap"
        assert sorted(await keys_in(store)) == list(range(10))
        await assert_sound(store)

    async def test_the_least_recently_used_make_room_and_no_more_of_them_than_needed(self, store: Store) -> None:
        for number in range(10):
            await put(store, number, 100)
        await store.touch([key_of(0)])
        await store.touch([key_of(2)])
        await put(store, 10, 250)
        assert await keys_in(store) == [10, 2, 0, 9, 8, 7, 6, 5]
        with pytest.raises(NotFoundError):
            await store.get(key_of(1))
        await assert_sound(store)

    async def test_looking_is_no_use(self, store: Store) -> None:
        for number in range(10):
            await put(store, number, 100)
        await store.stat([key_of(0)])
        await store.list()
        await store.get(key_of(0))
        await put(store, 10, 100)
        assert 0 not in await keys_in(store), "the least recently used, whoever looked at it"

    async def test_the_cap_holds_at_every_moment_under_concurrent_writers(self, store: Store) -> None:
        done = asyncio.Event()
        seen: list[int] = []

        async def watch() -> None:
            while not done.is_set():
                usage = await store.usage()
                seen.append(usage.used_bytes)

        async def write(writer: int) -> int:
            refused = 0
            for number in range(12):
                try:
                    await put(store, writer * 100 + number, 50 + 37 * ((writer + number) % 7))
                except CapacityError:
                    refused += 1
            return refused

        watcher = asyncio.create_task(watch())
        refused = await asyncio.gather(*(write(writer) for writer in range(6)))
        done.set()
        await watcher
        assert max(seen) <= CAPACITY
        assert sum(refused) < 6 * 12 / 2, "refused only while others' unfinished writes fill the cap"
        await assert_sound(store)

    async def test_closing_waits_for_puts_under_way(self, tmp_path: Path) -> None:
        store = await self.open_store(tmp_path, CAPACITY, ticking())
        last = asyncio.create_task(put(store, 1))
        await asyncio.sleep(0)
        await store.close()
        assert await last is True

    # Everything together

    def test_any_sequence_of_calls_agrees_with_a_simple_model(self, tmp_path: Path) -> None:
        run_state_machine_as_test(make_machine(self.open_store, tmp_path, CAPACITY, self.later))
