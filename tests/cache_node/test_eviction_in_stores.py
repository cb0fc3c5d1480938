"""Stores under every eviction policy: the cap at its boundary, what a restart knows, what a failure leaves."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from kvquilt.cli.settings import load
from kvquilt_cache_node.eviction import POLICIES, EvictionPolicy, make_policy
from kvquilt_cache_node.eviction.lfu import Lfu
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import Database, FileBlobs, IndexedStore, MemoryBlobs, SqliteIndex
from kvquilt_cache_node.store.uses import PendingUses
from kvquilt_codec.errors import BadRequestError, CapacityError
from tests.contracts.store_objects import data_of, key_of, keys_in, meta_of, put, ticking
from tests.contracts.store_profiles import profiles_in, put_coded, put_profile

CAPACITY = 1000


async def opened(policy: EvictionPolicy, capacity: int = CAPACITY) -> IndexedStore:
    return IndexedStore(MemoryBlobs(), SqliteIndex(Database(":memory:", ticking(), policy)), capacity)


class Counting(MemoryBlobs):
    """Notes the most bytes that were ever there, and lets others run within each step."""

    most = 0

    async def write(self, key: bytes, data: bytes) -> None:
        await asyncio.sleep(0)
        await super().write(key, data)
        self.most = max(self.most, sum((await self.sizes()).values()))
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", POLICIES)
async def test_the_cap_holds_to_the_byte_under_writers_of_exact_sizes(name: str) -> None:
    blobs = Counting()
    policy = make_policy(name, CAPACITY, Random(1))
    store = IndexedStore(blobs, SqliteIndex(Database(":memory:", ticking(), policy)), CAPACITY)
    sizes = (1, 99, 100, 250, 500, 999, 1000)
    stored: list[int] = []
    full = 0

    async def write(writer: int) -> None:
        nonlocal full
        for turn in range(12):
            number = writer * 100 + turn
            try:
                await put(store, number, sizes[(writer + turn) % len(sizes)])
            except CapacityError:
                continue  # others' unfinished writes fill the cap
            stored.append(number)
            await store.touch([key_of(number), key_of(stored[turn % len(stored)])])
            usage = await store.usage()
            assert usage.used_bytes <= CAPACITY
            full += usage.used_bytes == CAPACITY

    await asyncio.gather(*(write(writer) for writer in range(8)))
    assert blobs.most <= CAPACITY
    assert full > 0, "the boundary was reached"
    held = set(await keys_in(store))
    assert len(policy) == len(held), "policy and rows agree"
    assert all(key_of(number) in policy for number in held)
    for number in range(10):
        await put(store, 5000 + number, 100)
    usage = await store.usage()
    assert usage.used_bytes == sum((await blobs.sizes()).values()) <= CAPACITY
    await store.close()


@pytest.mark.parametrize("name", POLICIES)
async def test_profiles_in_use_stay_under_every_policy(name: str) -> None:
    store = await opened(make_policy(name, CAPACITY, Random(1)))
    await put_profile(store, 50)
    await put_coded(store, 1, 50)
    for number in range(2, 30):
        await put_coded(store, number, 50)
        assert set(await profiles_in(store)) == {50}
    await put(store, 99, 1000)
    assert await profiles_in(store) == {}, "every object had to go"
    assert await keys_in(store) == [99]


async def test_after_a_restart_the_policy_knows_uses_and_their_order(tmp_path: Path) -> None:
    async def reopened(policy: EvictionPolicy) -> IndexedStore:
        index = SqliteIndex(Database(tmp_path / "index.sqlite", ticking(), policy))
        return IndexedStore(FileBlobs(tmp_path, fsync=False), index, CAPACITY)

    store = await reopened(Lfu())
    for number in range(10):
        await put(store, number, 100)
    for number in (3, 0, 3, 7):
        await store.touch([key_of(number)])
    await store.close()
    policy = Lfu()
    store = await reopened(policy)
    await store.close()
    assert [policy.evict() for _ in range(10)] == [key_of(number) for number in (1, 2, 4, 5, 6, 8, 9, 0, 7, 3)]


async def test_what_is_worth_most_per_byte_stays_under_gdsf() -> None:
    store = await opened(make_policy("gdsf", CAPACITY, Random(1)))
    for number in range(10):
        meta = replace(meta_of(), compute_seconds=9.0 if number == 2 else 0.5)
        await store.put_if_absent(key_of(number), data_of(number, 100), meta)
    for number in range(10, 30):
        await put(store, number, 100)
    held = await keys_in(store)
    assert 2 in held
    assert 3 not in held


async def test_victims_of_a_transaction_that_failed_can_still_be_evicted() -> None:
    class Failing(PendingUses):
        """After what is written first in the transaction nothing can be written."""

        failing = False

        def write(self, db: sqlite3.Connection) -> None:
            super().write(db)
            if self.failing:
                db.execute("PRAGMA query_only=ON")

    index = Database(":memory:", ticking(), Lfu())
    index._uses = uses = Failing()
    store = IndexedStore(MemoryBlobs(), SqliteIndex(index), CAPACITY)
    for number in range(10):
        await put(store, number, 100)
    uses.failing = True
    for _ in range(3):
        with pytest.raises(Exception, match="index that can be written"):
            await put(store, 10, 300)
    uses.failing = False
    index._db.execute("PRAGMA query_only=OFF")
    assert len(await keys_in(store)) == 10
    assert await put(store, 10, 1000) is True
    assert await keys_in(store) == [10], "all of them could be chosen"


def test_an_unknown_policy_is_refused_at_start() -> None:
    with pytest.raises(BadRequestError, match=r"valid node.eviction; .*hit-density, .*got 'mru' \(from flag\)"):
        load(flags=["node.eviction=mru"], environment={})
    assert NodeSettings().eviction == "hit-density"
