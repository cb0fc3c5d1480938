"""The part of the store contract about look-ups by text: variants of a chunk, and chunks by fingerprints."""

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ChunkMatch, ObjectMeta
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.types import Level, VariantKind
from tests.contracts.store_objects import (
    CAPACITY,
    MODEL,
    data_of,
    digest_of,
    fingerprint_of,
    key_of,
    keys_in,
    meta_of,
)

OTHER_MODEL = "cd" * 32


async def put_of(store: Store, number: int, meta: ObjectMeta, size: int = 50) -> None:
    """Put a numbered object of a description."""
    assert await store.put_if_absent(key_of(number), data_of(number, size), meta)


async def variants(store: Store, *chunks: int, prefix: int = 0, limit: int = 16) -> dict[int, list[int]]:
    """Numbers of the objects of numbered chunks."""
    keys = [digest_of(chunk) for chunk in chunks]
    found = await store.find_variants(keys, MODEL, digest_of(prefix), limit)
    return {
        int.from_bytes(chunk, "big"): [int.from_bytes(info.key, "little") for info in infos]
        for chunk, infos in found.items()
    }


class LookupContract:
    """See `store_contract.StoreContract`, which has the fixture `store`."""

    async def test_variants_are_found_by_text_model_and_prefix_in_all_kinds_and_forms(self, store: Store) -> None:
        number = 0
        for kind in VariantKind:
            for form in (LOSSLESS, StorageForm(Level.HIGH)):
                await put_of(store, number, meta_of(chunk=1, kind=kind, form=form))
                number += 1
        await put_of(store, 20, meta_of(chunk=2))
        await put_of(store, 21, meta_of(chunk=1, prefix=1))
        await put_of(store, 22, meta_of(chunk=1, model=OTHER_MODEL))
        assert await variants(store, 1, 3) == {1: list(reversed(range(number)))}
        assert await variants(store, 1, 2, 1, prefix=0, limit=2) == {1: [number - 1, number - 2], 2: [20]}
        assert await variants(store, 1, 2, prefix=1) == {1: [21]}
        assert await variants(store) == {}
        (info,) = (await store.find_variants([digest_of(2)], MODEL, digest_of(0), 1))[digest_of(2)]
        assert info == (await store.stat([key_of(20)]))[key_of(20)]
        assert info.meta == meta_of(chunk=2), "sources and all"

    async def test_the_most_recently_used_come_first_and_being_found_is_no_use(self, store: Store) -> None:
        for number in range(3):
            await put_of(store, number, meta_of(chunk=1))
        await store.touch([key_of(0)])
        for _ in range(2):
            assert await variants(store, 1) == {1: [0, 2, 1]}
        assert await variants(store, 1, limit=1) == {1: [0]}
        assert await keys_in(store) == [0, 2, 1]
        assert {info.use_count for info in await store.list()} == {0, 1}

    async def test_thousands_of_chunks_can_be_asked_at_once(self, store: Store) -> None:
        await put_of(store, 7, meta_of(chunk=3000))
        assert await variants(store, *range(4096)) == {3000: [7]}

    async def test_a_chunk_is_found_by_its_fingerprints_as_long_as_one_of_its_objects_is_there(
        self, store: Store
    ) -> None:
        await put_of(store, 1, meta_of(chunk=1, fingerprints=[3, 4]))
        await put_of(store, 2, meta_of(chunk=1, prefix=1, fingerprints=[3, 4]))
        await put_of(store, 3, meta_of(chunk=2, fingerprints=[4]))
        asked = [fingerprint_of(number) for number in (5, 4, 3, 4)]
        one, other = digest_of(1), digest_of(2)
        everything = [
            ChunkMatch(1, one, 4, 17),
            ChunkMatch(1, other, 4, 17),
            ChunkMatch(2, one, 3, 17),
            ChunkMatch(3, one, 4, 17),
            ChunkMatch(3, other, 4, 17),
        ]
        assert await store.find_chunks(asked, MODEL, 8) == everything
        assert len(await store.find_chunks(asked, MODEL, 1)) == 3
        assert await store.find_chunks(asked, OTHER_MODEL, 8) == []
        await store.forget([key_of(1)], [])
        assert await store.find_chunks(asked, MODEL, 8) == everything, "another variant of it is there"
        await store.forget([key_of(2)], [])
        assert await store.find_chunks(asked[2:], MODEL, 8) == [ChunkMatch(1, other, 4, 17)]

    async def test_what_is_evicted_or_was_refused_is_found_no_more(self, store: Store) -> None:
        await put_of(store, 1, meta_of("doc", chunk=1, fingerprints=[3]), CAPACITY)
        await put_of(store, 2, meta_of("doc", chunk=2, fingerprints=[4]), CAPACITY)
        asked = [fingerprint_of(3), fingerprint_of(4)]
        assert await store.find_chunks(asked, MODEL, 8) == [ChunkMatch(1, digest_of(2), 4, 17)]
        assert await variants(store, 1, 2) == {2: [2]}
        await store.forget([], ["doc"])
        assert await store.find_chunks(asked, MODEL, 8) == []
        assert await variants(store, 1, 2) == {}
