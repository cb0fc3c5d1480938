"""What an installation calls: routers, nodes, Redis, object storage; by address, and how it is spoken to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from kvquilt.doctoring.types import Part, Patient
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_rpc.nodes.membership import NodeAddress, parse_address
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.tls import is_unix

H2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What a client of HTTP/2, and so of gRPC, says first."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Place:
    """Something that is called.

    Attributes:
        what: "router", "node", "redis" or "object storage".
        host: name or address; of a Unix socket its path.
        port: 0 for a Unix socket.
        tls: it is called with TLS.
        ca: PEM file of authorities; `None`: the system's.
        cert: PEM file of the own certificate.
        key: PEM file of its key.
        hello: what a client says first.
        ours: it is a part of kvquilt.
    """

    what: str
    host: str
    port: int
    tls: bool
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    hello: bytes = H2
    ours: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.what} {self.host}:{self.port}" if self.port else f"{self.what} {self.host}"


def places(patient: Patient) -> list[Place]:
    """Everything that this machine's parts call; each once."""
    return list(dict.fromkeys(_places(patient)))


def _places(patient: Patient) -> Iterator[Place]:
    if Part.CLIENT in patient.parts:
        yield _ours("router", parse_address(patient.target), patient.credentials)
    if Part.ROUTER in patient.parts:
        for entry in patient.router.nodes:
            yield _ours("node", parse_address(entry), patient.router.node_credentials)
    if Part.NODE in patient.parts:
        yield from _stores(patient)


def _ours(what: str, address: NodeAddress, credentials: Credentials) -> Place:
    tls = credentials.tls or credentials.tls_ca is not None
    files = (credentials.tls_ca, credentials.tls_cert, credentials.tls_key)
    if is_unix(address.text):
        return Place(what, address.text.partition(":")[2], 0, False, ours=True)
    host, _, port = address.text.removeprefix("dns:///").rpartition(":")
    return Place(what, host.strip("[]"), int(port), tls, *files, ours=True)


def _stores(patient: Patient) -> Iterator[Place]:
    node = patient.node
    for url in redis_urls(patient):
        files = (node.redis_ca, node.redis_certificate, node.redis_key)
        if url.socket:
            yield Place("redis", url.socket, 0, False)
        for host, port in url.hosts:
            yield Place("redis", host, port, url.tls, *files, hello=b"PING\r\n")
    if node.store == "object" and node.object_endpoint:
        parts = urlsplit(node.object_endpoint)
        host = parts.hostname or ""
        hello = f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        tls = parts.scheme == "https"
        yield Place("object storage", host, parts.port or _PORTS.get(parts.scheme, 0), tls, hello=hello)


def redis_urls(patient: Patient) -> list[RedisUrl]:
    """Of the Redis servers that a node uses."""
    node = patient.node
    store: SecretStr | None = node.redis_url if "redis" in (node.store, node.index) else None
    hot = (node.hot_redis_url or node.redis_url) if node.hot_store == "redis" else None
    return list(dict.fromkeys(RedisUrl.parse(url.get_secret_value()) for url in (store, hot) if url is not None))
