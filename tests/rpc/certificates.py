"""Certificate authorities, certificates, tokens and nodes that ask for them, for tests."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import trustme

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.types import Level
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials, ServerSecurity
from kvquilt_rpc.tokens import create_key, create_token
from tests.cache_node.calls import CHUNK
from tests.codec.samples import make_object

KEY, CONTAINER, META = make_object(CHUNK, Level.HIGH, namespace="a")
DEADLINE = 20.0


@dataclass(frozen=True)
class Party:
    """PEM files of one party."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority of its own, in a folder."""

    ca: trustme.CA
    folder: Path

    @classmethod
    def new(cls, folder: Path) -> "Authority":
        folder.mkdir(exist_ok=True)
        authority = cls(trustme.CA(key_type=trustme.KeyType.ECDSA), folder)
        authority.ca.cert_pem.write_to_path(authority.pem)
        return authority

    @property
    def pem(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str, *names: str, expires: datetime | None = None) -> Party:
        """Certificate and key of `name` (files), for some names."""
        issued = self.ca.issue_cert(*(names or (name,)), key_type=trustme.KeyType.ECDSA, not_after=expires)
        party = Party(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        party.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(party.key)
        return party


@dataclass(frozen=True)
class Signer:
    """An Ed25519 key that signs tokens, and its public half."""

    private: Path
    public: Path

    @classmethod
    def new(cls, path: Path) -> "Signer":
        return cls(path, create_key(path))

    def token(self, name: str = "tenant-a", *namespaces: str, age: float = 0, **fields: bool) -> str:
        """A token that held for an hour when it was made, `age` seconds ago."""
        identity = Identity(name, namespaces or ("a",), **fields)
        return create_token(self.private, identity, 3600, time.time() - age)


@asynccontextmanager
async def node(security: ServerSecurity, **settings: object) -> AsyncIterator[str]:
    """A node that asks who calls; yields its address."""
    async with running_node(NodeSettings(port=0, store="memory", security=security, **settings)) as address:
        yield address


@asynccontextmanager
async def calling(address: str, **credentials: object) -> AsyncIterator[NodeClient]:
    """A client of a node."""
    client = NodeClient(address, Credentials(**credentials))
    try:
        yield client
    finally:
        await client.close()


def tls(authority: Authority, **more: object) -> ServerSecurity:
    server = authority.issue("server", "127.0.0.1", "localhost")
    return ServerSecurity(tls_cert=server.cert, tls_key=server.key, **more)


def mutual(authority: Authority, identities: Path, **more: object) -> ServerSecurity:
    return tls(authority, tls_client_ca=authority.pem, identities=identities, **more)


def as_client(authority: Authority, name: str = "tenant-a.example") -> dict[str, Path]:
    party = authority.issue(name)
    return {"tls_ca": authority.pem, "tls_cert": party.cert, "tls_key": party.key}


async def counters(client: NodeClient) -> dict[str, int]:
    found = dict((await client.status(deadline=DEADLINE)).counters)
    return {name: count for name, count in found.items() if name.startswith("calls_") and count}


async def every_kind_of_call(client: NodeClient) -> None:
    """One answer to one request, a stream of answers, and a stream of requests."""
    assert await client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    pieces = [piece async for piece in client.get(KEY, META.model_fingerprint, deadline=DEADLINE)]
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == CONTAINER
    assert list(await client.stat([KEY], deadline=DEADLINE)) == [KEY]


async def refused(client: NodeClient) -> set[tuple[type[KvquiltError], str]]:
    """How each kind of call is refused."""

    async def got() -> None:
        async for _ in client.get(KEY, META.model_fingerprint, deadline=DEADLINE):
            pass

    found = set()
    for call in (client.stat([KEY], deadline=DEADLINE), client.put(KEY, CONTAINER, META, deadline=DEADLINE), got()):
        with pytest.raises(KvquiltError) as caught:
            await call
        found.add((type(caught.value), caught.value.reason))
    return found
