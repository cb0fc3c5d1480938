"""What a node lists of its objects, and to whom."""

from dataclasses import replace
from pathlib import Path

import pytest

from kvquilt_cache_node.listing import LISTED_DOCUMENTS, MESSAGE_BYTES, PAGE_OBJECTS, readable
from kvquilt_codec.catalog import ObjectInfo, ObjectMeta
from kvquilt_codec.errors import IntegrityError, PermissionDeniedError
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import convert
from kvquilt_rpc.callers import ANONYMOUS, ANY, Identity
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.node_objects import ListedObject, _listed
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests.cache_node.calls import DEADLINE, Node, serving
from tests.codec.samples import make_chunk, make_object
from tests.rpc.certificates import Signer

NAMES = ("a", "b", "public")


def object_of(number: int, namespace: str, *documents: str) -> tuple[bytes, bytes, ObjectMeta]:
    return make_object(make_chunk(8, seed=number), Level.HIGH, *documents, namespace=namespace)


async def listed(client: NodeClient, namespace: str = "") -> list[ListedObject]:
    return [item async for page in client.objects.pages(namespace, deadline=DEADLINE) for item in page.objects]


async def test_an_object_is_listed_as_it_is_looked_up_with_its_documents(node: Node) -> None:
    key, data, meta = object_of(1, "team-a", "b", "a")
    await node.client.put(key, data, meta, deadline=DEADLINE)
    await node.client.touch([key], ["c"], deadline=DEADLINE)
    (item,) = await listed(node.client)
    known = (await node.client.stat([key], deadline=DEADLINE))[key]
    assert item.info == replace(known, meta=replace(known.meta, sources=()))
    assert (item.info.meta.namespace, item.info.use_count) == ("team-a", 1)
    assert (item.documents, item.document_count) == (("a", "b", "c"), 3)
    assert (await listed(node.client)) == [item], "being listed is no use"
    assert await listed(node.client, "team-b") == []


async def test_messages_are_bounded_however_many_documents_hold_an_object() -> None:
    async with serving() as node:
        names = [f"{number:04}-{'x' * 1000}" for number in range(2000)]
        for number in range(3):
            key, data, meta = object_of(number, "public", "first")
            await node.client.put(key, data, meta, deadline=DEADLINE)
            for begin in range(0, len(names), 1000):
                await node.client.touch([key], names[begin : begin + 1000], deadline=DEADLINE)
        messages = [message async for message in node.stub.ListObjects(pb.ListObjectsRequest(), timeout=DEADLINE)]
        assert len(messages) == 2
        assert max(message.ByteSize() for message in messages) < 2 * MESSAGE_BYTES + 100_000
        items = await listed(node.client)
    assert {item.document_count for item in items} == {2001}
    assert {item.documents for item in items} == {tuple(sorted(names)[:LISTED_DOCUMENTS])}


async def test_a_store_of_many_objects_comes_in_messages_of_a_page_each() -> None:
    async with serving() as node:
        for number in range(PAGE_OBJECTS + 40):
            key, data, meta = object_of(number, "public")
            await node.client.put(key, data, meta, deadline=DEADLINE)
        sizes = [len(page.objects) async for page in node.client.objects.pages(deadline=DEADLINE)]
    assert sizes == [PAGE_OBJECTS, 40]


async def test_callers_are_told_of_their_own_namespaces_and_operators_of_all(tmp_path: Path) -> None:
    signer = Signer.new(tmp_path / "key")
    async with serving(security=ServerSecurity(token_key=signer.public)) as node:

        def client(name: str, *namespaces: str) -> NodeClient:
            return NodeClient(node.address, Credentials(token=signer.token(name, *namespaces, public_write=True)))

        operator, tenant = client("operator", ANY), client("tenant", "a")
        try:
            for number, namespace in enumerate(NAMES):
                key, data, meta = object_of(number, namespace)
                await operator.put(key, data, meta, deadline=DEADLINE)

            async def seen(caller: NodeClient, namespace: str = "") -> set[str]:
                return {item.info.meta.namespace for item in await listed(caller, namespace)}

            assert await seen(operator) == set(NAMES)
            assert await seen(operator, "b") == {"b"}
            assert await seen(tenant) == {"a"}
            assert await seen(tenant, "public") == {"public"}, "which all may read"
            with pytest.raises(PermissionDeniedError, match="namespaces of 'tenant'"):
                await listed(tenant, "b")
        finally:
            await operator.close()
            await tenant.close()


def test_who_may_read_what() -> None:
    tenant = Identity("t", ("a", "b"))
    assert readable(tenant, "") == {"a", "b"}
    assert readable(tenant, "b") == {"b"}
    assert readable(ANONYMOUS, "") is readable(Identity("o", (ANY,)), "") is None
    assert readable(ANONYMOUS, "x") == {"x"}


def test_an_answer_that_cannot_be_is_refused() -> None:
    key, _, meta = object_of(1, "public")
    good = pb.ListedObject(
        info=convert.info_to_wire(ObjectInfo(key, meta, 1, 1.0, 1.0, 0)), document_ids=["a"], document_count=1
    )
    assert _listed(good).documents == ("a",)
    for change in (
        pb.ListedObject(document_ids=["b"]),
        pb.ListedObject(document_ids=["\n"], document_count=2),
        pb.ListedObject(info=pb.ObjectInfo(object_key=b"short")),
        pb.ListedObject(info=pb.ObjectInfo(meta=pb.ObjectMeta(namespace="/"))),
    ):
        wrong = pb.ListedObject()
        wrong.CopyFrom(good)
        wrong.MergeFrom(change)
        with pytest.raises(IntegrityError):
            _listed(wrong)
