"""The part of the store contract about documents: who holds an object, and what forgetting them deletes."""

from dataclasses import replace

import pytest

from kvquilt_cache_node.types import Store
from kvquilt_codec.errors import NotFoundError
from tests.contracts.store_objects import (
    MODEL,
    assert_sound,
    data_of,
    digest_of,
    fingerprint_of,
    key_of,
    keys_in,
    meta_of,
    put,
)


class DocumentsContract:
    """See `store_contract.StoreContract`, which has the fixture `store`."""

    async def test_touch_counts_a_use_adds_documents_and_tells_what_exists(self, store: Store) -> None:
        await put(store, 1, 100, "one")
        before = (await store.stat([key_of(1)]))[key_of(1)]
        assert await store.touch([key_of(1), key_of(2)], ["two"]) == [key_of(1)]
        await store.touch([key_of(1)])
        after = (await store.stat([key_of(1)]))[key_of(1)]
        assert (before.use_count, after.use_count) == (0, 2)
        assert after.last_used > before.last_used
        assert after.created == before.created
        assert set(after.meta.document_ids) == {"one", "two"}
        assert await store.stat([key_of(2)]) == {}, "touching makes nothing"

    async def test_stat_gives_what_the_writer_said(self, store: Store) -> None:
        await put(store, 1, 123, "b", "a")
        found = await store.stat([key_of(1), key_of(2), key_of(1)])
        assert list(found) == [key_of(1)]
        info = found[key_of(1)]
        assert info.key == key_of(1)
        assert info.stored_bytes == 123
        assert sorted(info.meta.document_ids) == ["a", "b"]
        assert replace(info.meta, document_ids=()) == meta_of()

    async def test_thousands_of_keys_can_be_asked_at_once(self, store: Store) -> None:
        await put(store, 3000, 10)
        keys = [key_of(number) for number in range(4096)]
        assert set(await store.stat(keys)) == {key_of(3000)}
        assert await store.touch(keys) == [key_of(3000)]

    async def test_forget_by_key_returns_a_receipt_and_later_reads_miss(self, store: Store) -> None:
        await put(store, 1, 100, "one", "two")
        await put(store, 2, 50, "one")
        receipt = await store.forget([key_of(1), key_of(9)], [])
        assert (receipt.deleted, receipt.deleted_bytes, receipt.kept_shared) == ((key_of(1),), 100, 0)
        with pytest.raises(NotFoundError):
            await store.get(key_of(1))
        assert await keys_in(store) == [2]
        await assert_sound(store)

    async def test_forget_by_document_keeps_what_other_documents_hold(self, store: Store) -> None:
        await put(store, 1, 100, "one")
        await put(store, 2, 50, "one", "two")
        await put(store, 3, 25, "two")
        await store.put_if_absent(key_of(4), b"4" * 10, meta_of(chunk=1))
        receipt = await store.forget([], ["one"])
        assert (receipt.deleted, receipt.deleted_bytes, receipt.kept_shared) == ((key_of(1),), 100, 1)
        assert (await store.stat([key_of(2)]))[key_of(2)].meta.document_ids == ("two",)
        receipt = await store.forget([], ["two"])
        assert set(receipt.deleted) == {key_of(2), key_of(3)}
        assert (receipt.deleted_bytes, receipt.kept_shared) == (75, 0)
        assert await keys_in(store) == [4], "an object without documents is nobody's to forget by document"

    async def test_variants_of_a_text_that_nobody_holds_go_with_its_last_document(self, store: Store) -> None:
        """They were stored because of requests: whoever forgets the document means them too."""
        await put(store, 1, 100, "one")
        await put(store, 2, 50, "two")
        await put(store, 3, 25)
        receipt = await store.forget([], ["one"])
        assert (set(receipt.deleted), receipt.deleted_bytes) == ({key_of(1)}, 100), "two holds the same text"
        receipt = await store.forget([], ["two"])
        assert (set(receipt.deleted), receipt.deleted_bytes) == ({key_of(2), key_of(3)}, 75)
        assert await keys_in(store) == []
        await assert_sound(store)

    async def test_forgetting_several_documents_at_once_leaves_nothing_that_only_they_hold(self, store: Store) -> None:
        await put(store, 1, 100, "one", "two")
        receipt = await store.forget([], ["one", "two", "never seen"])
        assert (receipt.deleted, receipt.kept_shared) == ((key_of(1),), 0)

    async def test_forgetting_nothing_or_the_unknown_is_an_empty_receipt(self, store: Store) -> None:
        await put(store, 1)
        for keys, documents in (([], []), ([key_of(2)], ["never seen"])):
            receipt = await store.forget(keys, documents)
            assert (receipt.deleted, receipt.deleted_bytes, receipt.kept_shared) == ((), 0, 0)

    async def test_what_was_forgotten_can_be_stored_again_without_its_old_documents(self, store: Store) -> None:
        await put(store, 1, 100, "one")
        await store.touch([key_of(1)])
        await store.forget([key_of(1)], [])
        assert await put(store, 1, 60, "two") is True
        info = (await store.stat([key_of(1)]))[key_of(1)]
        assert (info.use_count, info.meta.document_ids, info.stored_bytes) == (0, ("two",), 60)
        assert (await store.forget([], ["one"])).deleted == ()

    async def test_texts_of_namespaces_are_apart_though_their_chunk_keys_are_the_same(self, store: Store) -> None:
        """Only a caller that knows another's chunk key can bring that about."""
        for number, namespace in ((1, "a"), (2, "b")):
            meta = meta_of(*(["doc"] if namespace == "b" else []), chunk=7, fingerprints=[3], namespace=namespace)
            await store.put_if_absent(key_of(number), data_of(number, 100), meta)
        asked = ([digest_of(7)], MODEL, digest_of(0), 4)
        for namespaces, expected in ((("a",), [1]), (("b",), [2]), (("c",), []), (("b", "a"), [2, 1]), (None, [2, 1])):
            found = await store.find_variants(*asked, namespaces)
            assert [info.key for infos in found.values() for info in infos] == [key_of(number) for number in expected]
            matches = await store.find_chunks([fingerprint_of(3)], MODEL, 4, namespaces)
            assert {match.chunk_key for match in matches} == ({digest_of(7)} if expected else set())
        assert (await store.forget([], ["doc"], "b")).deleted == (key_of(2),), "not what nobody holds of another's text"
        assert await keys_in(store) == [1]
        assert await store.find_chunks([fingerprint_of(3)], MODEL, 4, ("b",)) == []
        assert len(await store.find_chunks([fingerprint_of(3)], MODEL, 4, ("a",))) == 1
        await assert_sound(store)
