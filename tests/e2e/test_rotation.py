"""Every key is changed as docs/operations.md says, under running servers: what is promised there holds."""

import asyncio
from contextlib import contextmanager

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document, Public
from kvquilt.errors import UnauthenticatedError
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import UnavailableError
from kvquilt_codec.types import Level
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import ServerSecurity
from tests import servers
from tests.codec.samples import make_chunk, make_object
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import DEADLINE, Authority, Signer
from tests.stack import in_thread, router_only

SECRETS = ("the first master secret, long enough", "the second master secret, long enough")
KEY, DATA, META = make_object(make_chunk(5), Level.HIGH, "document", namespace="public")


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def text(seed):
    return np.random.default_rng(seed).integers(3, 480, 100).tolist()


def test_tokens_of_the_old_key_hold_until_it_is_taken_out(model, tmp_path):
    first, second = Signer.new(tmp_path / "first"), Signer.new(tmp_path / "second")
    keys = tmp_path / "verifying"
    keys.write_bytes(first.public.read_bytes())
    security = ServerSecurity(token_key=keys)
    node = NodeSettings(port=0, path=tmp_path / "node", security=security, fsync=False)
    to_node = tmp_path / "router.token"
    to_node.write_text(first.token("router", "*", public_write=True))
    known = Credentials(token_file=to_node)
    with (
        in_thread(lambda: running_node(node)) as address,
        router_only(model, [address], security=security, node_credentials=known, master_secret=SECRETS[0]) as router,
        Client(router, Credentials(token=first.token())) as old,
        Client(router, Credentials(token=second.token())) as new,
    ):

        def stored(client, seed):
            (done,) = client.prefetch([Document(str(seed), text(seed))], shared_prefix=[], level="lossless")
            return not done.failed

        assert stored(old, 1)
        with pytest.raises(UnauthenticatedError) as caught:
            new.status()
        assert caught.value.reason == "token_signature"
        keys.write_bytes(first.public.read_bytes() + second.public.read_bytes())
        assert stored(old, 2)
        assert stored(new, 3)
        to_node.write_text(second.token("router", "*", public_write=True))
        keys.write_bytes(second.public.read_bytes())
        assert stored(new, 4), "the router's own token was read again"
        with pytest.raises(UnauthenticatedError):
            old.status()


def test_another_master_secret_finds_nothing_private_and_its_namespace_can_be_forgotten(model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    credentials = Credentials(token=signer.token("tenant", "team-a", public_write=True))
    shared = {"security": ServerSecurity(token_key=signer.public), "background": False}
    private, public = Document("private", text(1)), Document("public", Public(text(2)))

    def found(client, segment):
        plan = client.plan([segment, [7, 8]], shared_prefix=[], level="lossless")
        return all(not chunk.miss_reason for chunk in plan.chunks)

    with in_thread(lambda: running_node(NodeSettings(port=0, path=tmp_path / "node", fsync=False))) as address:
        with (
            router_only(model, [address], master_secret=SECRETS[0], **shared) as router,
            Client(router, credentials) as client,
        ):
            for done in client.prefetch([private, public], shared_prefix=[], level="lossless"):
                assert not done.failed
            assert found(client, private.content)
        with (
            router_only(model, [address], master_secret=SECRETS[1], **shared) as router,
            Client(router, credentials) as client,
        ):
            assert not found(client, private.content)
            assert found(client, public.content)
            assert client.forget(everything=True).objects_deleted > 0, "it is by the name, not by the secret"
            assert found(client, public.content)


@contextmanager
def node_with(url, prefix, tmp_path):
    chosen = NodeSettings(port=0, store="redis", redis_url=url, redis_prefix=prefix, path=tmp_path / prefix)
    with in_thread(lambda: running_node(chosen)) as address:
        yield address


def works(address):
    async def called(client):
        await client.forget(keys=[KEY], deadline=DEADLINE)
        assert await client.put(KEY, DATA, META, deadline=DEADLINE)
        assert KEY in await client.stat([KEY], deadline=DEADLINE)

    asked(address, called)


def has(address):
    async def called(client):
        return [piece async for piece in client.get(KEY, META.model_fingerprint, deadline=DEADLINE)]

    return asked(address, called)


def asked(address, call):
    async def called():
        client = NodeClient(address)
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(called())


def test_redis_has_two_passwords_while_nodes_are_restarted_one_by_one(tmp_path):
    pytest.importorskip("redis")
    with servers.valkey(tmp_path / "valkey") as server:
        server.command("ACL", "SETUSER", "kvquilt", "on", ">old", "~*", "+@all")
        old, new = (server.url.replace("redis://", f"redis://kvquilt:{word}@") for word in ("old", "new"))
        with node_with(old, "first", tmp_path) as first:
            works(first)
            server.command("ACL", "SETUSER", "kvquilt", ">new")
            with node_with(new, "second", tmp_path) as second:
                works(first)
                works(second)
                server.command("ACL", "SETUSER", "kvquilt", "<old")
                works(second)
        with pytest.raises(UnavailableError) as caught, node_with(old, "third", tmp_path):
            pass
        assert caught.value.reason == "store_refused"
        with node_with(new, "first", tmp_path) as first:
            works(first)


@contextmanager
def node_on(server, folder, key_id, secret):
    store = {"store": "object", "object_url": f"{server.url}/{folder.name}", "object_endpoint": server.endpoint}
    keys = {"object_key_id": key_id, "object_secret": secret, "object_retries": 0}
    with in_thread(lambda: running_node(NodeSettings(port=0, path=folder, fsync=False, **store, **keys))) as address:
        yield address


def test_object_storage_has_two_keys_while_nodes_are_restarted_one_by_one(tmp_path):
    old, new = (servers.S3_KEY_ID, servers.S3_SECRET), ("the-new-key-id", "the-new-secret-key")
    with servers.s3(tmp_path / "s3") as server:
        with node_on(server, tmp_path / "first", *old) as first, node_on(server, tmp_path / "second", *old) as second:
            works(first)
            works(second)
            server.takes(dict([old, new]))
            works(first)
        with node_on(server, tmp_path / "first", *new) as first:
            assert has(first), "what was stored with the old key"
            works(first)
            server.takes(dict([new]))
            works(first)
            with pytest.raises(UnavailableError) as caught, node_on(server, tmp_path / "second", *old):
                pass
            assert caught.value.reason == "store_refused"
            with node_on(server, tmp_path / "second", *new) as second:
                assert has(second)
                works(second)


def test_a_node_that_was_forgotten_misses_and_fails_nothing_else(tmp_path):
    old, new = (servers.S3_KEY_ID, servers.S3_SECRET), ("the-new-key-id", "the-new-secret-key")
    with servers.s3(tmp_path / "s3") as server, node_on(server, tmp_path / "node", *old) as address:
        works(address)
        server.takes(dict([new]))
        with pytest.raises(UnavailableError) as caught:
            works(address)
        assert caught.value.reason == "store_refused"
        server.takes(dict([old, new]))
        works(address)


def test_another_authority_comes_in_beside_the_old_one(tmp_path):
    old, new = Authority.new(tmp_path / "old"), Authority.new(tmp_path / "new")
    trusted = {"old": old.pem.read_bytes(), "new": new.pem.read_bytes()}
    cert, key, client_ca = (tmp_path / name for name in ("cert.pem", "cert.key", "client-ca.pem"))
    identities = tmp_path / "identities.yaml"
    identities.write_text('client.example: {namespaces: ["*"], public_write: true}\n')

    def install(authority):
        party = authority.issue("server", "127.0.0.1")
        cert.write_bytes(party.cert.read_bytes())
        key.write_bytes(party.key.read_bytes())

    def called(address, authority, *roots):
        bundle = tmp_path / "roots.pem"
        bundle.write_bytes(b"".join(trusted[name] for name in roots))
        own = authority.issue("client.example")

        async def calling():
            client = NodeClient(address, Credentials(tls_ca=bundle, tls_cert=own.cert, tls_key=own.key))
            try:
                await client.status(deadline=DEADLINE)
            finally:
                await client.close()

        asyncio.run(calling())

    install(old)
    client_ca.write_bytes(trusted["old"])
    security = ServerSecurity(tls_cert=cert, tls_key=key, tls_client_ca=client_ca, identities=identities)
    with in_thread(lambda: running_node(NodeSettings(port=0, store="memory", security=security))) as address:
        called(address, old, "old")
        client_ca.write_bytes(trusted["old"] + trusted["new"])
        called(address, old, "old", "new")
        install(new)
        called(address, old, "old", "new")
        called(address, new, "new")
        client_ca.write_bytes(trusted["new"])
        called(address, new, "new")
        with pytest.raises(UnavailableError) as caught:
            called(address, old, "new")
        assert caught.value.reason == "tls_handshake"
