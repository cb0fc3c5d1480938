"""A place where all is encrypted: a node with mutual TLS and tokens, its objects and index in a Redis with TLS."""

import shutil
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redis import Redis

from drills.place import DURABLE, Place
from kvquilt_codec.identity import PUBLIC
from kvquilt_rpc.security import Credentials
from tests import servers
from tests.rpc.certificates import Authority, Party, Signer


@dataclass(frozen=True)
class Secured:
    """What is running there.

    Attributes:
        node: the node's process.
        redis: the server.
        ports: of both, by name ("node", "redis").
        authority: of all certificates.
        own: certificate of the load, which the node uses towards Redis too.
        admin: a connection to Redis that stays open.
    """

    node: servers.Process
    redis: servers.RedisServer
    ports: dict[str, int]
    authority: Authority
    own: Party
    admin: Redis

    @classmethod
    def made(cls, place: Place) -> "Secured":
        """All of it, and the place's credentials those that the node lets in."""
        folder = place.folder / "pem"
        authority = Authority.new(folder)
        own = authority.issue("load")
        for name in ("node", "redis"):
            _put(folder, name, authority.issue(f"{name}-first", servers.HOST))
        pem = servers.Certificates(authority.pem, *_files(folder, "redis"), own.cert, own.key, authority.pem)
        redis = place.stack.enter_context(servers.redis_tls(place.folder / "redis", pem, *DURABLE))
        signer = Signer.new(folder / "tokens.key")
        (folder / "token").write_text(signer.token("load", "*", public_write=True))
        identities = folder / "identities.yaml"
        identities.write_text("load: {namespaces: ['*']}\n")
        cert, key = _files(folder, "node")
        secure = {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.pem, "identities": identities}
        secure |= {"token_key": signer.public}
        known = {"redis_ca": authority.pem, "redis_certificate": own.cert, "redis_key": own.key}
        node = place.node(
            *place.redis_settings(f"rediss://{servers.HOST}:{redis.port}", shared=True),
            *(f"node.{name}={path}" for name, path in known.items()),
            *(f"node.security.{name}={path}" for name, path in secure.items()),
        )
        place.credentials = Credentials(
            tls_ca=authority.pem, tls_cert=own.cert, tls_key=own.key, token_file=folder / "token", namespace=PUBLIC
        )
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(authority.pem)}
        tls |= {"ssl_certfile": str(own.cert), "ssl_keyfile": str(own.key)}
        admin = Redis(servers.HOST, redis.port, **tls)
        place.stack.callback(admin.close)
        admin.ping()
        ports = {"node": int(place.targets[-1].rpartition(":")[2]), "redis": redis.port}
        return cls(node, redis, ports, authority, own, admin)

    def renew(self, server: str, name: str, expires: datetime | None = None) -> None:
        """Give a server ("node", "redis") a new certificate while it runs, and have Redis close its connections.

        Raises:
            RuntimeError: it shows another certificate than that.
        """
        folder = self.authority.folder
        _put(folder, server, self.authority.issue(f"{server}-{name}", servers.HOST, expires=expires))
        cert, key = _files(folder, server)
        if server == "redis":
            self.admin.execute_command("CONFIG", "SET", "tls-cert-file", str(cert), "tls-key-file", str(key))
            self.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if self._shown(self.ports[server]) != ssl.PEM_cert_to_DER_cert(cert.read_text()):
            raise RuntimeError(f"expected the {name} certificate of {server}; it shows another one")

    def _shown(self, port: int) -> bytes | None:
        """The certificate that a server shows, in DER."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(self.own.cert, self.own.key)
        context.set_alpn_protocols(["h2"])  # gRPC wants it, Redis does not mind
        with socket.create_connection((servers.HOST, port), timeout=5) as plain, context.wrap_socket(plain) as secured:
            return secured.getpeercert(binary_form=True)


def _files(folder: Path, server: str) -> tuple[Path, Path]:
    return folder / f"of-{server}.pem", folder / f"of-{server}.key"


def _put(folder: Path, server: str, party: Party) -> None:
    """Put certificate and key where a server reads its own."""
    for source, target in zip((party.cert, party.key), _files(folder, server), strict=True):
        shutil.copy(source, target)
