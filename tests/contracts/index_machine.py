"""A state machine that calls an index at random, from two nodes if it can be shared, and compares it with a model."""

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import GateMeta, Meta, ProfileMeta
from kvquilt_codec.errors import CapacityError, PermissionDeniedError
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import DEPARTURES, ChunkPlace
from kvquilt_codec.types import Level
from tests.contracts.index_model import Model
from tests.contracts.store_objects import CAPACITY, MODEL, Clock, digest_of, fingerprint_of, meta_of

OpenIndexes = Callable[[Path, Clock], Awaitable[list[Index]]]

CHUNKS, PREFIXES = 3, 2
PROFILE, GATE = 10, 11
keys = st.integers(0, 11).map(lambda number: bytes([number]) * 32)
objects = st.integers(0, 7).map(lambda number: bytes([number]) * 32)
documents = st.sets(st.sampled_from(["one", "two", "three"])).map(sorted).map(tuple)
nodes = st.integers(0, 1)
reasons = st.sampled_from(DEPARTURES)
OWNERS = ("a", "b", PUBLIC)
scopes = st.one_of(st.none(), st.sets(st.sampled_from([*OWNERS, "c"])).map(sorted).map(tuple))
owners = st.sampled_from(["", *OWNERS])


def described(key: bytes, held_by: tuple[str, ...]) -> Meta:
    """Keys 8 and 9 are of objects coded with the profile 10, which the gate 11 was measured with."""
    number, digest = key[0], (bytes([PROFILE]) * 32).hex()
    if number == PROFILE:
        return ProfileMeta(MODEL)
    if number == GATE:
        return GateMeta(MODEL, digest)
    chunk = number % CHUNKS
    form = StorageForm(Level.HIGH, digest) if number > 7 else LOSSLESS
    owner = OWNERS[chunk]
    # What a text's fingerprints are depends on nothing but the text.
    return meta_of(*held_by, chunk=chunk, prefix=number % PREFIXES, form=form, fingerprints=[chunk, 9], namespace=owner)


def make_machine(open_indexes: OpenIndexes, folder: Path) -> Callable[[], RuleBasedStateMachine]:
    """A machine class over indexes that `open_indexes` opens: several of one index if it can be shared, else one."""

    class IndexMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            own = folder / uuid.uuid4().hex
            own.mkdir()
            self.nodes = self.runner.run(_awaited(open_indexes(own, itertools.count(1_000.0).__next__)))
            self.writers: dict[bytes, Index] = {}
            self.model = Model(CAPACITY)

        def teardown(self) -> None:
            for node in self.nodes:
                self.runner.run(node.close())
            self.runner.close()

        def at(self, node: int) -> Index:
            return self.nodes[node % len(self.nodes)]

        @rule(node=nodes, key=keys, size=st.sampled_from([0, 1, 100, 300, 500, CAPACITY, CAPACITY + 1]), by=documents)
        def reserve(self, node: int, key: bytes, size: int, by: tuple[str, ...]) -> None:
            if key in self.model.reserved:
                return
            if key in self.model.entries:
                assert self.runner.run(self.at(node).reserve(key, size, CAPACITY)) is None
                owner = self.model.entries[key].namespace
                with pytest.raises(PermissionDeniedError):
                    self.runner.run(self.at(node).add_documents(key, by, "c"))
                assert self.runner.run(self.at(node).add_documents(key, by, owner)) is self.model.hold(key, by)
                return
            assert self.runner.run(self.at(node).add_documents(key, by, "a")) is False
            if not self.model.fits(size):
                with pytest.raises(CapacityError):
                    self.runner.run(self.at(node).reserve(key, size, CAPACITY))
                return
            victims = self.runner.run(self.at(node).reserve(key, size, CAPACITY))
            assert victims is not None
            assert set(victims) == self.model.reserve(key, size, described(key, by))
            self.runner.run(self.at(node).release(victims))
            self.writers[key] = self.at(node)

        @rule(key=keys)
        def commit(self, key: bytes) -> None:
            if key in self.model.reserved:
                self.runner.run(self.writers[key].commit(key, *self.model.reserved[key]))
                self.model.commit(key)

        @rule(key=keys)
        def give_up(self, key: bytes) -> None:
            if key in self.model.reserved:
                self.runner.run(self.writers[key].release([key]))
                del self.model.reserved[key]

        @rule(node=nodes, used=st.lists(keys, max_size=4, unique=True), by=documents, of=scopes)
        def use(self, node: int, used: list[bytes], by: tuple[str, ...], of: Namespaces) -> None:
            assert self.runner.run(self.at(node).use(used, by, of)) == self.model.use(used, by, of)

        @rule(
            node=nodes,
            named=st.lists(keys, max_size=2),
            forgotten=documents,
            owner=owners,
            reason=st.sampled_from(DEPARTURES),
        )
        def remove(self, node: int, named: list[bytes], forgotten: tuple[str, ...], owner: str, reason: str) -> None:
            dropped, shared = self.runner.run(self.at(node).remove(named, forgotten, owner, reason))
            assert (dropped, shared) == self.model.remove(named, forgotten, owner, reason)
            self.delete(node, dropped)

        @rule(node=nodes, owner=owners)
        def remove_namespace(self, node: int, owner: str) -> None:
            if owner:
                dropped = self.runner.run(self.at(node).remove_namespace(owner))
                assert dropped == self.model.remove_namespace(owner)
                self.delete(node, dropped)

        def delete(self, node: int, dropped: Mapping[bytes, int]) -> None:
            for key in dropped:
                assert self.runner.run(self.at(node).may_delete(key)), "this node dropped it"
            self.runner.run(self.at(node).release(list(dropped)))

        @rule(node=nodes, prefix=st.integers(0, PREFIXES), limit=st.integers(1, 3), of=scopes)
        def find_variants(self, node: int, prefix: int, limit: int, of: Namespaces) -> None:
            chunks = [digest_of(number) for number in range(CHUNKS + 1)]
            found = self.runner.run(self.at(node).find_variants(chunks, MODEL, digest_of(prefix), limit, of))
            known = {chunk: self.model.variants(chunk, digest_of(prefix), MODEL, of) for chunk in chunks}
            assert {c: [info.key for info in infos] for c, infos in found.items()} == {
                c: there[:limit] for c, there in known.items() if there
            }

        @rule(node=nodes, limit=st.integers(1, CHUNKS), of=scopes)
        def find_chunks(self, node: int, limit: int, of: Namespaces) -> None:
            asked = [fingerprint_of(number) for number in (9, *range(CHUNKS), 99)]
            found = self.runner.run(self.at(node).find_chunks(asked, MODEL, limit, of))
            assert found == self.model.chunks(asked, MODEL, limit, of)

        @rule(node=nodes, of=scopes)
        def find(self, node: int, of: Namespaces) -> None:
            known = {key for key in self.model.objects() if self.model.seen(key, of)}
            assert {info.key for info in self.runner.run(self.at(node).find(None, of))} == known
            asked = [bytes([number]) * 32 for number in range(12)]
            assert {info.key for info in self.runner.run(self.at(node).find(asked, of))} == known

        @rule(node=nodes, of=scopes)
        def trace(self, node: int, of: Namespaces) -> None:
            chunks, prefixes = range(CHUNKS + 1), range(PREFIXES)
            places = [ChunkPlace(digest_of(chunk), digest_of(prefix)) for chunk in chunks for prefix in prefixes]
            found = self.runner.run(self.at(node).trace(places, 64, of))
            assert {place: departed.reason for place, departed in found.departed.items()} == self.model.departures(of)
            seen = {key for key in self.model.objects() if self.model.seen(key, of)}
            assert {info.key for infos in found.objects.values() for info in infos} == seen

        @rule(node=nodes)
        def profiles_and_gates(self, node: int) -> None:
            profile, gate = bytes([PROFILE]) * 32, bytes([GATE]) * 32
            coded = sum(meta.form.name == profile.hex() for meta in self.model.objects().values())
            there = profile in self.model.entries, gate in self.model.entries
            found = self.runner.run(self.at(node).profiles())
            assert [(info.digest, info.objects, info.gates) for info in found] == (
                [(profile.hex(), coded, int(there[1]))] if there[0] else []
            )
            gates = self.runner.run(self.at(node).gates(MODEL, profile.hex()))
            assert [info.digest for info in gates] == ([gate.hex()] if there[1] else [])

        @invariant()
        def what_is_known_of_objects_is_the_models(self) -> None:
            for node in self.nodes:
                listed = self.runner.run(node.find())
                assert [info.key for info in listed] == list(reversed(self.model.objects())), "order of use"
                for info in listed:
                    entry = self.model.entries[info.key]
                    assert set(info.meta.document_ids) == entry.documents
                    assert (info.stored_bytes, info.use_count) == (entry.size, entry.uses)

        @invariant()
        def sizes_and_sums_are_the_models(self) -> None:
            sizes = self.runner.run(self.nodes[-1].sizes())
            assert sizes == {key: entry.size for key, entry in self.model.entries.items()}
            usage = self.runner.run(self.nodes[0].usage(CAPACITY))
            reserved = sum(size for size, _ in self.model.reserved.values())
            assert (usage.objects, usage.used_bytes) == (len(self.model.objects()), self.model.used + reserved)
            assert usage.used_bytes <= CAPACITY == usage.capacity_bytes

    IndexMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
    return IndexMachine


async def _awaited(opening: Awaitable[list[Index]]) -> list[Index]:
    return await opening
