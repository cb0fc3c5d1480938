"""The part of the store contract about profiles: what they are kept for, and what does not concern them."""

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ProfileMeta
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.types import Level
from tests.contracts.store_objects import CAPACITY, MODEL, data_of, key_of, meta_of, put


async def put_profile(store: Store, number: int, size: int = 300) -> bool:
    """Put a numbered profile."""
    return await store.put_if_absent(key_of(number), data_of(number, size), ProfileMeta(MODEL))


async def put_coded(store: Store, number: int, profile: int, size: int = 100) -> bool:
    """Put a numbered object that is coded with a profile."""
    form = StorageForm(Level.HIGH, key_of(profile).hex())
    return await store.put_if_absent(key_of(number), data_of(number, size), meta_of(form=form))


async def profiles_in(store: Store) -> dict[int, int]:
    """Numbers of the profiles in a store, and how many objects are coded with each."""
    found = await store.profiles()
    return {int.from_bytes(bytes.fromhex(info.digest), "little"): info.objects for info in found}


async def assert_no_more_than_the_cap(store: Store) -> None:
    """The cap holds for objects and profiles together."""
    usage = await store.usage()
    stored = [info.stored_bytes for info in (*await store.list(), *await store.profiles())]
    assert usage.used_bytes == sum(stored) <= CAPACITY


class ProfilesContract:
    """See `store_contract.StoreContract`, which has the fixture `store`."""

    async def test_a_profile_is_kept_and_is_no_object(self, store: Store) -> None:
        assert await put_profile(store, 50) is True
        assert await put_profile(store, 50) is False
        assert await store.get(key_of(50)) == [data_of(50, 300)]
        assert await store.list() == []
        assert await store.stat([key_of(50)]) == {}
        usage = await store.usage()
        assert (usage.objects, usage.used_bytes) == (0, 300)
        (info,) = await store.profiles()
        assert (info.model_fingerprint, info.stored_bytes, info.objects) == (MODEL, 300, 0)

    async def test_documents_do_not_hold_profiles(self, store: Store) -> None:
        await put_profile(store, 50)
        await store.touch([key_of(50)], ["a document"])
        assert (await store.forget([], ["a document"])).deleted == ()
        assert await profiles_in(store) == {50: 0}

    async def test_a_profile_stays_while_an_object_is_coded_with_it(self, store: Store) -> None:
        await put_profile(store, 50)
        await put_coded(store, 1, 50)
        for number in range(2, 20):
            await store.touch([key_of(1)])
            await put(store, number)
            assert await profiles_in(store) == {50: 1}, "the least recently used of all, but needed"
        await store.forget([key_of(1)], [])
        await put(store, 20, 200)
        assert await profiles_in(store) == {}
        await assert_no_more_than_the_cap(store)

    async def test_when_every_object_has_to_go_profiles_go_too(self, store: Store) -> None:
        await put_profile(store, 50)
        await put_coded(store, 1, 50)
        assert await put(store, 2, 1000) is True
        assert await profiles_in(store) == {}
        assert [info.key for info in await store.list()] == [key_of(2)]

    async def test_unused_profiles_go_in_the_order_of_their_use(self, store: Store) -> None:
        for number in (50, 51, 52):
            await put_profile(store, number)
        await store.touch([key_of(50)])
        await put(store, 1, 300)
        assert set(await profiles_in(store)) == {50, 52}
