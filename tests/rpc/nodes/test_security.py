"""Nodes that ask who calls: a pool shows them, over TLS, and tells refusals from nodes that do not answer."""

import asyncio
import itertools
from contextlib import AsyncExitStack

import pytest

from kvquilt_codec.errors import BadRequestError, KvquiltError, UnauthenticatedError
from kvquilt_rpc.nodes import open_nodes
from kvquilt_rpc.nodes.types import PoolOptions
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests.rpc.certificates import Authority, Signer, as_client, mutual, node, tls
from tests.rpc.nodes.cluster import CHUNKS, DEADLINE, OBJECTS, found, put_all, until

PROBED = PoolOptions(health_seconds=1.0)
"""Which is also how long a probe may take, on a busy machine too."""


@pytest.fixture
def authority(tmp_path):
    return Authority.new(tmp_path / "ca")


@pytest.fixture
def signer(tmp_path):
    return Signer.new(tmp_path / "key")


@pytest.mark.parametrize("how", ["token", "tls and token", "certificate"])
async def test_calls_and_health_probes_pass_nodes_that_ask_who_calls(how, authority, signer, tmp_path):
    token = {"token": signer.token("router", "*", public_write=True)}
    if how == "token":
        security, credentials = ServerSecurity(token_key=signer.public), Credentials(**token)
    elif how == "tls and token":
        security = tls(authority, token_key=signer.public)
        credentials = Credentials(tls_ca=authority.pem, **token)
    else:
        identities = tmp_path / "identities.yaml"
        identities.write_text("router.example: {identity: router, namespaces: ['*'], public_write: true}\n")
        security, credentials = mutual(authority, identities), Credentials(**as_client(authority, "router.example"))
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(node(security)) for _ in range(2)]
        nodes = await stack.enter_async_context(open_nodes(addresses, PROBED, credentials=credentials))
        await put_all(nodes)
        assert len(await found(nodes)) == len(CHUNKS)
        before = {state.target: state.calls for state in await nodes.states(deadline=DEADLINE)}
        asked = itertools.count(1)

        async def probed():
            own = next(asked)
            return all(state.calls - before[state.target] >= own + 3 for state in await nodes.states(deadline=DEADLINE))

        await until(probed)
        states = await nodes.states(deadline=DEADLINE)
        assert {(state.serving, state.breaker, state.failures) for state in states} == {(True, "closed", 0)}
        assert all(state.status is not None for state in states)


async def test_nodes_that_refuse_are_not_taken_for_dead_and_a_forget_says_so(signer):
    async with (
        node(ServerSecurity(token_key=signer.public)) as first,
        node(ServerSecurity(token_key=signer.public)) as second,
        open_nodes([first, second], PROBED) as nodes,
    ):
        for _ in range(PROBED.breaker_threshold + 1):
            for call in (found(nodes), put_all(nodes), nodes.forget(documents=["text"], deadline=DEADLINE)):
                with pytest.raises(UnauthenticatedError):
                    await call
        states = await nodes.states(deadline=DEADLINE)
        assert {(state.breaker, state.failures) for state in states} == {("closed", 0)}


async def test_the_certificate_of_a_node_has_the_name_that_stood_for_its_address(authority):
    own = authority.issue("own", "nodes.test")
    security = ServerSecurity(tls_cert=own.cert, tls_key=own.key)
    credentials = Credentials(tls_ca=authority.pem)
    key, data, meta = OBJECTS[0]
    async with node(security) as address:
        named = {"credentials": credentials, "resolver": lambda host, port: [address]}
        async with open_nodes(["dns:///nodes.test:7411"], **named) as nodes:
            assert await nodes.put(key, data, meta, deadline=DEADLINE)
        for entries in ([address], ["dns:///others.test:7411"]):
            async with open_nodes(entries, **named) as nodes:
                with pytest.raises(KvquiltError) as caught:
                    await nodes.put(key, data, meta, deadline=DEADLINE)
                assert caught.value.reason == "tls_handshake"


async def test_a_token_goes_over_no_network_in_clear_text_whatever_a_name_stands_for(signer):
    credentials = Credentials(token=signer.token("router", "*", public_write=True))
    names = ["127.0.0.1:7411"]
    options = PoolOptions(resolve_seconds=0.05)
    opened = open_nodes(["dns:///nodes.test:7411"], options, credentials=credentials, resolver=lambda *_: list(names))
    async with opened as nodes:
        names.append("192.0.2.1:7411")
        await asyncio.sleep(0.2)
        names[:] = ["127.0.0.1:7412"]

        async def followed():
            return [state.target for state in await nodes.states(deadline=DEADLINE)] == names

        await until(followed)
    names[:] = ["192.0.2.1:7411"]
    with pytest.raises(BadRequestError, match="expected TLS"):
        async with open_nodes(["dns:///nodes.test:7411"], credentials=credentials, resolver=lambda *_: list(names)):
            pass
