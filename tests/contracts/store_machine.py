"""A state machine that calls a store at random and compares it with a model of twenty lines."""

import asyncio
import itertools
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
from tests.contracts.store_objects import MODEL, digest_of, fingerprint_of, meta_of

OpenStore = Callable[[Path, int, Callable[[], float]], Awaitable[Store]]

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


@dataclass
class Model:
    """What a store should hold; `entries` is in order of use, the least recently used first."""

    capacity: int
    entries: dict[bytes, Entry] = field(default_factory=dict)

    def put(self, key: bytes, data: bytes, held_by: tuple[str, ...]) -> bool:
        if key in self.entries:
            self.entries[key].documents |= set(held_by)
            return False
        while sum(len(entry.data) for entry in self.entries.values()) + len(data) > self.capacity:
            del self.entries[next(iter(self.entries))]
        self.entries[key] = Entry(data, set(held_by))
        return True

    def touch(self, touched: list[bytes], held_by: tuple[str, ...]) -> list[bytes]:
        found = [key for key in touched if key in self.entries]
        for key in found:
            entry = self.entries[key] = self.entries.pop(key)
            entry.uses += 1
            entry.documents |= set(held_by)
        return found

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


def make_machine(open_store: OpenStore, folder: Path, capacity: int) -> Callable[[], RuleBasedStateMachine]:
    """A machine class over stores that `open_store` opens in folders of their own below `folder`."""

    class StoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            own = folder / uuid.uuid4().hex
            own.mkdir()
            clock = itertools.count(1_000.0).__next__
            self.store = self.runner.run(_awaited(open_store(own, capacity, clock)))
            self.model = Model(capacity)

        def teardown(self) -> None:
            self.runner.run(self.store.close())
            self.runner.close()

        @rule(key=keys, size=st.sampled_from([0, 1, 100, 300, 500, capacity]), held_by=documents)
        def put(self, key: bytes, size: int, held_by: tuple[str, ...]) -> None:
            data = (key + bytes([size % 251])) * (size // 33 + 1)
            chunk = key[0] % CHUNKS
            meta = meta_of(*held_by, chunk=chunk, prefix=key[0] % PREFIXES, fingerprints=[chunk, 9])
            stored = self.runner.run(self.store.put_if_absent(key, data[:size], meta))
            assert stored == self.model.put(key, data[:size], held_by)

        @rule(key=keys)
        def put_what_is_larger_than_the_cap(self, key: bytes) -> None:
            if key in self.model.entries:
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
                if key[0] % PREFIXES == prefix:
                    expected.setdefault(digest_of(key[0] % CHUNKS), []).append(key)
            got = {chunk: [info.key for info in infos] for chunk, infos in found.items()}
            assert got == {chunk: known[:limit] for chunk, known in expected.items()}

        @rule()
        def find_chunks(self) -> None:
            asked = [fingerprint_of(number) for number in (9, *range(CHUNKS), 11)]
            found = self.runner.run(self.store.find_chunks(asked, MODEL, CHUNKS))
            there = sorted({key[0] % CHUNKS for key in self.model.entries})
            everywhere = [ChunkMatch(0, digest_of(chunk), 9, 17) for chunk in there]
            own = [ChunkMatch(1 + chunk, digest_of(chunk), chunk, 17) for chunk in there]
            assert sorted(found, key=repr) == sorted(everywhere + own, key=repr)

        @rule(key=keys)
        def get(self, key: bytes) -> None:
            entry = self.model.entries.get(key)
            if entry is not None:
                assert self.runner.run(self.store.get(key)) == [entry.data]
            else:
                with pytest.raises(NotFoundError):
                    self.runner.run(self.store.get(key))

        @invariant()
        def listing_is_the_models(self) -> None:
            listed = self.runner.run(self.store.list())
            assert [info.key for info in listed] == list(reversed(self.model.entries)), "order of use"
            for info in listed:
                entry = self.model.entries[info.key]
                assert set(info.meta.document_ids) == entry.documents
                assert (info.stored_bytes, info.use_count) == (len(entry.data), entry.uses)

        @invariant()
        def the_cap_holds(self) -> None:
            usage = self.runner.run(self.store.usage())
            assert usage.objects == len(self.model.entries)
            assert usage.used_bytes == sum(len(entry.data) for entry in self.model.entries.values()) <= capacity

    StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
    return StoreMachine


async def _awaited(opening: Awaitable[Store]) -> Store:
    return await opening
