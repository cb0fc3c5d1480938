"""A state machine that calls an index at random, from two nodes if it can be shared, and compares it with a model."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvquilt_cache_node.index_types import Index, Pin
from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import GateMeta
from kvquilt_codec.errors import CapacityError, PermissionDeniedError
from kvquilt_codec.traces import DEPARTURES, ChunkPlace
from tests.contracts.index_draws import (
    CHUNKS,
    GATE,
    LEASE,
    MOST_PINNED,
    NOTHING,
    PREFIXES,
    PROFILE,
    described,
    documents,
    keys,
    nodes,
    objects,
    owners,
    scopes,
)
from tests.contracts.index_entry import NEVER
from tests.contracts.index_model import Model
from tests.contracts.store_objects import (
    CAPACITY,
    MODEL,
    TTL,
    Clock,
    Ticking,
    digest_of,
    fingerprint_of,
    ticking,
)

OpenIndexes = Callable[[Path, Clock], Awaitable[list[Index]]]
Later = Callable[[Index, Ticking, float], Awaitable[None]]
"""Lets seconds pass for an index."""


def make_machine(
    open_indexes: OpenIndexes, folder: Path, later: Later, *, moves: bool
) -> Callable[[], RuleBasedStateMachine]:
    """A machine class over indexes that `open_indexes` opens: several of one index if it can be shared, else one.

    Args:
        open_indexes: see there.
        folder: for all that they have.
        later: lets time pass.
        moves: as `Model.moves`.
    """

    class IndexMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            own = folder / uuid.uuid4().hex
            own.mkdir()
            self.clock = ticking()
            self.nodes = self.runner.run(_awaited(open_indexes(own, self.clock)))
            self.writers: dict[bytes, Index] = {}
            self.lives: dict[bytes, tuple[int, bool]] = {}
            self.model = Model(CAPACITY, moves)

        def teardown(self) -> None:
            for node in self.nodes:
                self.runner.run(node.close())
            self.runner.close()

        def at(self, node: int) -> Index:
            return self.nodes[node % len(self.nodes)]

        @rule(
            node=nodes,
            key=keys,
            size=st.sampled_from([0, 1, 100, 300, 500, CAPACITY, CAPACITY + 1]),
            by=documents,
            ttl=st.sampled_from([0, 0, 1, 2]),
            renewed=st.booleans(),
        )
        def reserve(self, node: int, key: bytes, size: int, by: tuple[str, ...], ttl: int, renewed: bool) -> None:
            if key in self.model.reserved:
                return
            if self.model.is_there(key):
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
            assert set(victims) == self.model.reserve(key, size, described(key, by, ttl, renewed=renewed))
            self.finish(node, [victim for victim in victims if victim != key])
            self.writers[key], self.lives[key] = self.at(node), (ttl, renewed)

        def finish(self, node: int, deleted: list[bytes]) -> None:
            self.runner.run(self.at(node).deleted(deleted))
            self.model.gone -= set(deleted)

        @rule(key=keys)
        def commit(self, key: bytes) -> None:
            if key in self.model.reserved:
                self.runner.run(self.writers[key].commit(key, *self.model.reserved[key]))
                ttl, renewed = self.lives[key]
                self.model.commit(key, ttl, renewed=renewed)

        @rule(key=keys)
        def give_up(self, key: bytes) -> None:
            if key in self.model.reserved:
                self.runner.run(self.writers[key].release([key]))
                del self.model.reserved[key]

        @rule(node=nodes, used=st.lists(keys, max_size=4, unique=True), by=documents, of=scopes)
        def use(self, node: int, used: list[bytes], by: tuple[str, ...], of: Namespaces) -> None:
            assert self.runner.run(self.at(node).use(used, by, of)) == self.model.use(used, by, of)

        @rule(node=nodes, key=objects)
        def begin_read(self, node: int, key: bytes) -> None:
            found = self.runner.run(self.at(node).use([key], (), None, LEASE))
            assert found == self.model.use([key], (), None)
            if found:
                self.model.begin_read(key, LEASE.most_bytes)

        @rule(node=nodes, key=objects)
        def end_read(self, node: int, key: bytes) -> None:
            self.at(node).end_read([key])
            assert self.runner.run(self.at(node).use([NOTHING])) == []
            self.model.end_read(key)

        @rule(
            node=nodes,
            named=st.lists(objects, max_size=2),
            held=documents,
            units=st.sampled_from([0, 1, 2]),
            expiring=st.booleans(),
            owner=owners,
        )
        def pin(
            self, node: int, named: list[bytes], held: tuple[str, ...], units: int, expiring: bool, owner: str
        ) -> None:
            held = () if any(e.documents & set(held) for key, e in self.model.entries.items() if key[0] > 7) else held
            wanted = Pin(MOST_PINNED, units * TTL or None, expiring)
            try:
                expected = self.model.pin(named, held, owner, MOST_PINNED, units, keeps=not expiring)
            except CapacityError:
                with pytest.raises(CapacityError):
                    self.runner.run(self.at(node).pin(named, held, wanted, owner))
            else:
                assert set(self.runner.run(self.at(node).pin(named, held, wanted, owner))) == expected

        @rule(node=nodes, key=objects, owner=owners)
        def unpin(self, node: int, key: bytes, owner: str) -> None:
            assert set(self.runner.run(self.at(node).unpin([key], (), owner))) == self.model.unpin([key], (), owner)

        @rule(units=st.integers(1, 2))
        def pass_time(self, units: int) -> None:
            self.runner.run(later(self.nodes[0], self.clock, units * TTL))
            self.model.now += units
            self.model.read.clear()

        @rule(node=nodes, done=st.booleans())
        def sweep(self, node: int, done: bool) -> None:
            keys = self.runner.run(self.at(node).overdue(100))
            assert set(keys) == self.model.overdue()
            for key in keys:
                assert self.runner.run(self.at(node).may_delete(key)), "this node is to delete it"
            if done:
                self.finish(node, list(keys))
            else:
                self.runner.run(self.at(node).release(keys))

        @rule(node=nodes, key=keys)
        def is_gone(self, node: int, key: bytes) -> None:
            assert self.runner.run(self.at(node).is_gone(key)) is (key in self.model.gone)

        @rule(
            node=nodes,
            named=st.lists(keys, max_size=2),
            forgotten=documents,
            owner=owners,
            reason=st.sampled_from(DEPARTURES),
            done=st.booleans(),
        )
        def remove(
            self, node: int, named: list[bytes], forgotten: tuple[str, ...], owner: str, reason: str, done: bool
        ) -> None:
            dropped, shared = self.runner.run(self.at(node).remove(named, forgotten, owner, reason))
            assert (dropped, shared) == self.model.remove(named, forgotten, owner, reason)
            self.delete(node, dropped, done=done)

        @rule(node=nodes, owner=owners, done=st.booleans())
        def remove_namespace(self, node: int, owner: str, done: bool) -> None:
            if owner:
                dropped = self.runner.run(self.at(node).remove_namespace(owner))
                assert dropped == self.model.remove_namespace(owner)
                self.delete(node, dropped, done=done)

        def delete(self, node: int, dropped: Mapping[bytes, int], *, done: bool) -> None:
            for key in dropped:
                assert self.runner.run(self.at(node).may_delete(key)), "this node dropped it"
            if done:
                self.finish(node, list(dropped))
            else:
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
            known = {key for key in self.model.objects() if self.model.seen(key, of) and self.model.is_there(key)}
            assert {info.key for info in self.runner.run(self.at(node).find(None, of))} == known
            asked = [bytes([number]) * 32 for number in range(12)]
            assert {info.key for info in self.runner.run(self.at(node).find(asked, of))} == known

        @rule(node=nodes, of=scopes)
        def trace(self, node: int, of: Namespaces) -> None:
            chunks, prefixes = range(CHUNKS + 1), range(PREFIXES)
            places = [ChunkPlace(digest_of(chunk), digest_of(prefix)) for chunk in chunks for prefix in prefixes]
            found = self.runner.run(self.at(node).trace(places, 64, of))
            assert {place: departed.reason for place, departed in found.departed.items()} == self.model.departures(of)
            seen = {key for key in self.model.objects() if self.model.seen(key, of) and self.model.is_there(key)}
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
            gates = self.runner.run(self.at(node).files(GateMeta(MODEL, profile.hex())))
            assert [info.digest for info in gates] == ([gate.hex()] if there[1] else [])

        @invariant()
        def what_is_known_of_objects_is_the_models(self) -> None:
            for node in self.nodes:
                listed = self.runner.run(node.find())
                there = [key for key in reversed(self.model.objects()) if self.model.is_there(key)]
                assert [info.key for info in listed] == there, "order of use"
                for info in listed:
                    entry = self.model.entries[info.key]
                    assert (info.expires is None) is (entry.expires[0] == NEVER[0])
                    assert info.pinned is (entry.pinned is not None and not self.model.has_passed(entry.pinned))
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
            assert (usage.pinned_bytes, usage.pending_deletions) == (self.model.pinned, len(self.model.gone))

    IndexMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
    return IndexMachine


async def _awaited(opening: Awaitable[list[Index]]) -> list[Index]:
    return await opening
