"""A state machine that calls a store at random and compares it with a model of twenty lines."""

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ChunkMatch
from kvquilt_codec.errors import CapacityError, NotFoundError
from tests.contracts.store_objects import MODEL, TTL, Ticking, digest_of, fingerprint_of, meta_of, ticking

OpenStore = Callable[[Path, int, Callable[[], float]], Awaitable[Store]]
Later = Callable[[Store, Ticking, float], Awaitable[None]]
"""Lets seconds pass for a store."""

keys = st.integers(0, 7).map(lambda number: bytes([number]) * 32)
CHUNKS, PREFIXES = 3, 2
"""Objects share chunks, and chunks have variants after different prefixes: object n is of chunk n % 3, prefix n % 2."""
documents = st.sets(st.sampled_from(["one", "two", "three"])).map(sorted).map(tuple)


@dataclass
class Entry:
    """An object of the model."""

    data: bytes
    documents: set[str]
    uses: int = 0
    ttl: int = 0
    renewed: bool = False
    ends: float = math.inf
    pinned: bool = False


@dataclass
class Model:
    """What a store should hold; `entries` is in order of use, the least recently used first.

    What has expired is there, to nobody's knowledge, until it is dropped. Times are in units that pass together.
    """

    capacity: int
    entries: dict[bytes, Entry] = field(default_factory=dict)
    now: int = 0
    begun: int = 0

    def is_there(self, key: bytes) -> bool:
        entry = self.entries.get(key)
        return entry is not None and (entry.pinned or entry.ends - 0.5 > self.now)

    @property
    def used(self) -> int:
        return sum(len(entry.data) for entry in self.entries.values())

    @property
    def pinned(self) -> int:
        return sum(len(entry.data) for entry in self.entries.values() if entry.pinned)

    def put(self, key: bytes, data: bytes, held_by: tuple[str, ...], ttl: int, *, renewed: bool) -> bool:
        if self.is_there(key):
            self.entries[key].documents |= set(held_by)
            return False
        if self.pinned + len(data) > self.capacity:
            raise CapacityError("pins hold the room")
        self.entries.pop(key, None)
        while self.used + len(data) > self.capacity:
            expired = [other for other in self.entries if not self.is_there(other)]
            first = min(expired, key=lambda other: self.entries[other].ends, default=None)
            del self.entries[first or next(other for other, entry in self.entries.items() if not entry.pinned)]
        self.entries[key] = Entry(data, set(held_by), ttl=ttl, renewed=renewed)
        if ttl:
            self._begin(self.entries[key])
        return True

    def touch(self, touched: list[bytes], held_by: tuple[str, ...]) -> list[bytes]:
        found = [key for key in touched if self.is_there(key)]
        for key in found:
            entry = self.entries[key] = self.entries.pop(key)
            entry.uses += 1
            entry.documents |= set(held_by)
            if entry.ttl and entry.renewed:
                self._begin(entry)
        return found

    def _begin(self, entry: Entry) -> None:
        self.begun += 1
        entry.ends = self.now + entry.ttl + self.begun * 1e-6  # of one unit, what began first ends first

    def pin(self, key: bytes, most: int) -> set[bytes]:
        if not self.is_there(key):
            return set()
        if not self.entries[key].pinned and self.pinned + len(self.entries[key].data) > most:
            raise CapacityError("too much")
        self.entries[key].pinned = True
        return {key}

    def forget(self, named: list[bytes], forgotten: tuple[str, ...]) -> tuple[set[bytes], int, int]:
        gone = {key for key in named if key in self.entries}
        shared = 0
        orphans: set[bytes] = set()
        for key, entry in self.entries.items():
            if entry.documents & set(forgotten):
                entry.documents -= set(forgotten)
                if key not in gone and entry.documents:
                    shared += 1
                else:
                    gone.add(key)
                    orphans.add(key)
        for chunk in {key[0] % CHUNKS for key in orphans}:
            same = {key: entry for key, entry in self.entries.items() if key[0] % CHUNKS == chunk}
            if not any(entry.documents for entry in same.values()):
                gone |= set(same)
        size = sum(len(self.entries.pop(key).data) for key in gone)
        return gone, size, shared


def make_machine(
    open_store: OpenStore, folder: Path, capacity: int, later: Later
) -> Callable[[], RuleBasedStateMachine]:
    """A machine class over stores that `open_store` opens in folders of their own below `folder`.

    Args:
        open_store: see there.
        folder: see there.
        capacity: of each.
        later: lets time pass.
    """

    class StoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            own = folder / uuid.uuid4().hex
            own.mkdir()
            self.clock = ticking()
            self.store = self.runner.run(_awaited(open_store(own, capacity, self.clock)))
            self.model = Model(capacity)

        def teardown(self) -> None:
            self.runner.run(self.store.close())
            self.runner.close()

        @rule(
            key=keys,
            size=st.sampled_from([0, 1, 100, 300, 500, capacity]),
            held_by=documents,
            ttl=st.sampled_from([0, 0, 1, 2]),
            renewed=st.booleans(),
        )
        def put(self, key: bytes, size: int, held_by: tuple[str, ...], ttl: int, renewed: bool) -> None:
            data = ((key + bytes([size % 251])) * (size // 33 + 1))[:size]
            chunk = key[0] % CHUNKS
            stay = {"ttl": ttl * TTL, "renewed": renewed}
            meta = meta_of(*held_by, chunk=chunk, prefix=key[0] % PREFIXES, fingerprints=[chunk, 9], **stay)
            try:
                expected = self.model.put(key, data, held_by, ttl, renewed=renewed)
            except CapacityError:
                with pytest.raises(CapacityError):
                    self.runner.run(self.store.put_if_absent(key, data, meta))
            else:
                assert self.runner.run(self.store.put_if_absent(key, data, meta)) is expected

        @rule(key=keys)
        def pin(self, key: bytes) -> None:
            try:
                expected = self.model.pin(key, capacity // 2)
            except CapacityError:
                with pytest.raises(CapacityError):
                    self.runner.run(self.store.pin([key], []))
            else:
                receipt = self.runner.run(self.store.pin([key], []))
                assert (set(receipt.keys), receipt.pinned_bytes) == (expected, self.model.pinned)

        @rule(units=st.integers(1, 2))
        def pass_time(self, units: int) -> None:
            self.runner.run(later(self.store, self.clock, units * TTL))
            self.model.now += units

        @rule(key=keys)
        def put_what_is_larger_than_the_cap(self, key: bytes) -> None:
            if self.model.is_there(key):
                return
            with pytest.raises(CapacityError):
                self.runner.run(self.store.put_if_absent(key, bytes(capacity + 1), meta_of(fingerprints=[11])))

        @rule(touched=st.lists(keys, max_size=4, unique=True), held_by=documents)
        def touch(self, touched: list[bytes], held_by: tuple[str, ...]) -> None:
            found = self.runner.run(self.store.touch(touched, held_by))
            assert found == self.model.touch(touched, held_by)

        @rule(named=st.lists(keys, max_size=2), forgotten=documents)
        def forget(self, named: list[bytes], forgotten: tuple[str, ...]) -> None:
            receipt = self.runner.run(self.store.forget(named, forgotten))
            got = (set(receipt.deleted), receipt.deleted_bytes, receipt.kept_shared)
            assert got == self.model.forget(named, forgotten)

        @rule(prefix=st.integers(0, PREFIXES), limit=st.integers(1, 3))
        def find_variants(self, prefix: int, limit: int) -> None:
            chunks = [digest_of(number) for number in range(CHUNKS + 1)]
            found = self.runner.run(self.store.find_variants(chunks, MODEL, digest_of(prefix), limit))
            expected: dict[bytes, list[bytes]] = {}
            for key in reversed(self.model.entries):
                if key[0] % PREFIXES == prefix and self.model.is_there(key):
                    expected.setdefault(digest_of(key[0] % CHUNKS), []).append(key)
            got = {chunk: [info.key for info in infos] for chunk, infos in found.items()}
            assert got == {chunk: known[:limit] for chunk, known in expected.items()}

        @rule()
        def find_chunks(self) -> None:
            asked = [fingerprint_of(number) for number in (9, *range(CHUNKS), 11)]
            found = self.runner.run(self.store.find_chunks(asked, MODEL, CHUNKS))
            there = sorted({key[0] % CHUNKS for key in self.model.entries if self.model.is_there(key)})
            everywhere = [ChunkMatch(0, digest_of(chunk), 9, 17) for chunk in there]
            own = [ChunkMatch(1 + chunk, digest_of(chunk), chunk, 17) for chunk in there]
            assert sorted(found, key=repr) == sorted(everywhere + own, key=repr)

        @rule(key=keys)
        def get(self, key: bytes) -> None:
            if self.model.is_there(key):
                assert self.runner.run(self.store.get(key)) == [self.model.entries[key].data]
            else:
                with pytest.raises(NotFoundError):
                    self.runner.run(self.store.get(key))

        @invariant()
        def listing_is_the_models(self) -> None:
            listed = self.runner.run(self.store.list())
            there = [key for key in reversed(self.model.entries) if self.model.is_there(key)]
            assert [info.key for info in listed] == there, "order of use"
            for info in listed:
                entry = self.model.entries[info.key]
                assert set(info.meta.document_ids) == entry.documents
                assert (info.stored_bytes, info.use_count) == (len(entry.data), entry.uses)

        @invariant()
        def the_cap_holds(self) -> None:
            usage = self.runner.run(self.store.usage())
            assert usage.objects == len(self.model.entries)
            assert usage.used_bytes == self.model.used <= capacity
            assert usage.pinned_bytes == self.model.pinned

    StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
    return StoreMachine


async def _awaited(opening: Awaitable[Store]) -> Store:
    return await opening
