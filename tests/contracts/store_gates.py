"""The part of the store contract about gates: found by what they were measured of, kept with their profile."""

from kvquilt_cache_node.types import FILES_KEPT, Store
from kvquilt_codec.catalog import AuditsMeta, GateMeta
from tests.contracts.store_objects import MODEL, data_of, key_of, put
from tests.contracts.store_profiles import assert_no_more_than_the_cap, profiles_in, put_coded, put_profile

OTHER_MODEL = "cd" * 32
MAX_GATES = FILES_KEPT[GateMeta]


async def put_gate(store: Store, number: int, profile: int = 50, model: str = MODEL, size: int = 20) -> bool:
    """Put a numbered gate of a numbered profile."""
    return await store.put_if_absent(key_of(number), data_of(number, size), GateMeta(model, key_of(profile).hex()))


async def gates_in(store: Store, profile: int = 50, model: str = MODEL) -> list[int]:
    """Numbers of the gates of a profile, the one that was stored last first."""
    found = await store.files(GateMeta(model, key_of(profile).hex()))
    return [int.from_bytes(bytes.fromhex(info.digest), "little") for info in found]


class GatesContract:
    """See `store_contract.StoreContract`, which has the fixture `store`."""

    async def test_a_gate_is_kept_and_is_no_object_and_no_profile(self, store: Store) -> None:
        assert await put_gate(store, 70) is True
        assert await put_gate(store, 70) is False
        assert await store.get(key_of(70)) == [data_of(70, 20)]
        assert await store.list() == []
        assert await store.profiles() == []
        assert await store.stat([key_of(70)]) == {}
        usage = await store.usage()
        assert (usage.objects, usage.used_bytes) == (0, 20)
        (info,) = await store.files(GateMeta(MODEL, key_of(50).hex()))
        assert (info.model_fingerprint, info.profile_digest, info.stored_bytes) == (MODEL, key_of(50).hex(), 20)

    async def test_gates_are_found_by_model_and_profile_the_last_one_first(self, store: Store) -> None:
        await put_profile(store, 50)
        for number in (72, 70, 71):
            await put_gate(store, number)
        await put_gate(store, 73, profile=51)
        await put_gate(store, 74, model=OTHER_MODEL)
        await store.touch([key_of(72)])
        await put_gate(store, 72)
        assert await gates_in(store) == [71, 70, 72], "neither a use nor another put makes one younger"
        assert await gates_in(store, 51) == [73]
        assert await gates_in(store, model=OTHER_MODEL) == [74]
        assert await gates_in(store, 52) == []
        (info,) = await store.profiles()
        assert info.gates == 4

    async def test_the_oldest_gates_of_a_profile_go_when_there_are_too_many(self, store: Store) -> None:
        await put_gate(store, 69, profile=51)
        for number in range(70, 73 + MAX_GATES):
            await put_gate(store, number)
        assert await gates_in(store) == list(range(72 + MAX_GATES, 72, -1))
        assert await gates_in(store, 51) == [69]
        assert (await store.usage()).used_bytes == 20 * (MAX_GATES + 1)

    async def test_documents_do_not_hold_gates(self, store: Store) -> None:
        await put_gate(store, 70)
        await store.touch([key_of(70)], ["a document"])
        assert (await store.forget([], ["a document"])).deleted == ()
        assert await gates_in(store) == [70]

    async def test_a_gate_stays_while_an_object_is_coded_with_its_profile(self, store: Store) -> None:
        await put_profile(store, 50)
        await put_gate(store, 70)
        await put_gate(store, 71, profile=51)
        await put_coded(store, 1, 50)
        for number in range(2, 20):
            await store.touch([key_of(1)])
            await put(store, number)
            assert await gates_in(store) == [70], "the least recently used of all, but needed"
            assert await profiles_in(store) == {50: 1}
        assert await gates_in(store, 51) == [], "nothing is coded with that profile"
        await store.forget([key_of(1)], [])
        await put(store, 20, 500)
        assert await gates_in(store) == []
        await assert_no_more_than_the_cap(store)

    async def test_when_every_object_has_to_go_gates_go_too(self, store: Store) -> None:
        await put_profile(store, 50)
        await put_gate(store, 70)
        await put_coded(store, 1, 50)
        assert await put(store, 2, 1000) is True
        assert await gates_in(store) == []
        assert (await store.usage()).used_bytes == 1000

    async def test_audits_are_kept_beside_the_gates_and_with_their_profile(self, store: Store) -> None:
        await put_profile(store, 50)
        await put_gate(store, 70)
        like = AuditsMeta(MODEL, key_of(50).hex())
        for number in range(80, 83):
            assert await store.put_if_absent(key_of(number), data_of(number, 10), like) is True
        await store.put_if_absent(key_of(84), data_of(84, 10), AuditsMeta(OTHER_MODEL, key_of(50).hex()))
        assert [info.digest for info in await store.files(like)] == [key_of(number).hex() for number in (82, 81, 80)]
        assert await gates_in(store) == [70]
        (info,) = await store.profiles()
        assert info.gates == 1, "audits are no gates"
        assert (await store.usage()).objects == 0
        await store.forget([key_of(81)], [])
        assert [info.digest for info in await store.files(like)] == [key_of(number).hex() for number in (82, 80)]
        await put_coded(store, 1, 50)
        for number in range(2, 20):
            await store.touch([key_of(1)])
            await put(store, number)
        assert len(await store.files(like)) == 2, "the least recently used of all, but needed"
        await store.forget([key_of(1)], [])
        await put(store, 20, 500)
        assert await store.files(like) == []
        await assert_no_more_than_the_cap(store)
