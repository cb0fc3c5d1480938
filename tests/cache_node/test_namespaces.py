"""Whose an object is, at a node that knows who calls: to everybody else it is as if it did not exist."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.errors import BadRequestError, KvquiltError, NotFoundError, PermissionDeniedError
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.types import Level
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object
from tests.rpc.certificates import DEADLINE, Signer, node

PRIVATE = make_object(make_chunk(40, seed=1), Level.HIGH, "doc", namespace="a")
OTHERS = make_object(make_chunk(40, seed=2), Level.HIGH, "doc", namespace="b")
PUBLIC = make_object(make_chunk(40, seed=3), Level.HIGH, "doc", namespace="public")
EVERYTHING = (PRIVATE, OTHERS, PUBLIC)
Made = tuple[bytes, bytes, ObjectMeta]


@dataclass(frozen=True)
class Callers:
    """Who calls one node that holds `EVERYTHING`: two tenants, and one that may do all."""

    a: NodeClient
    b: NodeClient
    operator: NodeClient


@pytest.fixture
async def callers(tmp_path: Path) -> AsyncIterator[Callers]:
    signer = Signer.new(tmp_path / "tokens.key")
    async with node(ServerSecurity(token_key=signer.public)) as address:
        tokens = (signer.token("a", "a"), signer.token("b", "b"), signer.token("all", "*", public_write=True))
        clients = [NodeClient(address, Credentials(token=token)) for token in tokens]
        found = Callers(*clients)
        for key, data, meta in EVERYTHING:
            assert await found.operator.put(key, data, meta, deadline=DEADLINE)
        yield found
        for client in clients:
            await client.close()


async def got(client: NodeClient, made: Made) -> bytes:
    pieces = [piece async for piece in client.get(made[0], FINGERPRINT, deadline=DEADLINE)]
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


async def seen(client: NodeClient) -> list[list[bytes]]:
    """The keys that each kind of look-up finds, of all that there are."""
    keys, chunks = [made[0] for made in EVERYTHING], [made[2].chunk_key for made in EVERYTHING]
    asked = [digest for made in EVERYTHING for _, digest in unpack(made[2].fingerprints, made[2].tokens)]
    key_of = dict(zip(chunks, keys, strict=True))
    variants = await client.find_variants(chunks, FINGERPRINT, PREFIX, deadline=DEADLINE)
    matches = await client.find_chunks(asked, FINGERPRINT, deadline=DEADLINE)
    found = [
        await client.stat(keys, deadline=DEADLINE),
        await client.touch(keys, [], deadline=DEADLINE),
        [key_of[chunk] for chunk in variants],
        {key_of[match.chunk_key] for match in matches},
    ]
    return [[key for key in keys if key in there] for there in found]


async def test_a_tenant_sees_its_own_and_public_objects_and_an_operator_all(callers: Callers) -> None:
    assert await seen(callers.a) == [[PRIVATE[0], PUBLIC[0]]] * 4
    assert await seen(callers.b) == [[OTHERS[0], PUBLIC[0]]] * 4
    assert await seen(callers.operator) == [[made[0] for made in EVERYTHING]] * 4
    with acting_in("a"):
        assert await seen(callers.operator) == [[PRIVATE[0], PUBLIC[0]]] * 4
    assert await got(callers.a, PRIVATE) == PRIVATE[1]
    assert await got(callers.b, PUBLIC) == PUBLIC[1]


async def test_anothers_object_is_to_a_reader_what_is_not_there_is(callers: Callers) -> None:
    missing = make_object(make_chunk(40, seed=9), Level.HIGH)
    errors: list[KvquiltError] = []
    for made in (PRIVATE, missing):
        with pytest.raises(NotFoundError) as caught:
            await got(callers.b, made)
        errors.append(caught.value)
    assert errors[0].reason == errors[1].reason
    texts = [str(e).replace(made[0].hex()[:16], "") for e, made in zip(errors, (PRIVATE, missing), strict=True)]
    assert texts[0] == texts[1]
    assert (await callers.a.stat([PRIVATE[0]], deadline=DEADLINE))[PRIVATE[0]].use_count == 0


async def test_nobody_changes_anothers_objects_or_public_ones_without_leave(callers: Callers) -> None:
    keys = [made[0] for made in EVERYTHING]
    assert await callers.b.touch(keys, ["mine"], deadline=DEADLINE) == {OTHERS[0]}
    receipt = await callers.b.forget(keys=keys, documents=["doc", "mine"], deadline=DEADLINE)
    assert set(receipt.deleted) == {OTHERS[0]}, "its own, also where another's document has the same id"
    assert await seen(callers.operator) == [[PRIVATE[0], PUBLIC[0]]] * 4
    with acting_in("public"), pytest.raises(PermissionDeniedError) as caught:
        await callers.b.forget(documents=["doc"], deadline=DEADLINE)
    assert caught.value.reason == "public_write_denied"
    with pytest.raises(BadRequestError) as asked:
        await callers.operator.forget(documents=["doc"], deadline=DEADLINE)
    assert asked.value.reason == "namespace_missing"
    with acting_in("public"):
        assert (await callers.operator.forget(documents=["doc"], deadline=DEADLINE)).deleted == (PUBLIC[0],)


async def test_what_is_put_must_be_of_the_namespace_that_the_call_acts_in(callers: Callers) -> None:
    key, data, meta = make_object(make_chunk(40, seed=9), Level.HIGH, namespace="a")
    for put in (
        callers.b.put(key, data, meta, deadline=DEADLINE),
        callers.a.put(*make_object(make_chunk(40, seed=9), Level.HIGH, namespace="public"), deadline=DEADLINE),
    ):
        with pytest.raises(PermissionDeniedError):
            await put
    stolen = make_object(make_chunk(40, seed=1), Level.HIGH, namespace="b")
    assert stolen[0] == PRIVATE[0], "the same text under the same secret: only a thief has it"
    with pytest.raises(PermissionDeniedError) as caught:
        await callers.b.put(*stolen, deadline=DEADLINE)
    assert caught.value.reason == "namespace_denied"
    assert await got(callers.a, PRIVATE) == PRIVATE[1]
    assert await callers.a.put(key, data, meta, deadline=DEADLINE) is True


async def test_a_namespace_is_forgotten_by_who_acts_in_it_or_an_operator(callers: Callers) -> None:
    for client, namespace in ((callers.b, "a"), (callers.a, "public")):
        with pytest.raises(PermissionDeniedError):
            await client.forget_namespace(namespace, deadline=DEADLINE)
    receipt = await callers.a.forget_namespace("a", deadline=DEADLINE)
    assert (receipt.deleted, receipt.deleted_bytes, receipt.kept_shared) == ((PRIVATE[0],), len(PRIVATE[1]), 0)
    with pytest.raises(NotFoundError):
        await got(callers.a, PRIVATE)
    assert (await callers.operator.forget_namespace("b", deadline=DEADLINE)).deleted == (OTHERS[0],)
    assert (await callers.operator.forget_namespace("nobody", deadline=DEADLINE)).deleted == ()
    assert await seen(callers.operator) == [[PUBLIC[0]]] * 4


async def test_a_status_tells_an_operator_of_all_namespaces_and_a_tenant_of_its_own(callers: Callers) -> None:
    async def told(client: NodeClient) -> dict[str, tuple[int, int]]:
        found = (await client.status(deadline=DEADLINE)).namespaces
        return {usage.namespace: (usage.objects, usage.used_bytes) for usage in found}

    sizes = {meta.namespace: (1, len(data)) for _, data, meta in EVERYTHING}
    assert await told(callers.operator) == sizes
    assert await told(callers.a) == {"a": sizes["a"]}
    await callers.a.forget_namespace("a", deadline=DEADLINE)
    assert await told(callers.a) == {}
