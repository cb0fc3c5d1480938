"""Certificates of servers on the loopback address and of their clients."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.servers.process import HOST


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, a server's and a client's certificate and key of it, and another CA."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


def certificates(folder: Path) -> Certificates:
    """Fresh certificates for the loopback address."""
    ca, other = trustme.CA(), trustme.CA()
    paths = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "key", "other")))
    ca.cert_pem.write_to_path(str(paths.ca))
    other.cert_pem.write_to_path(str(paths.other_ca))
    for issued, chain, key in (
        (ca.issue_cert(HOST, "localhost"), paths.server, paths.server_key),
        (ca.issue_cert("client"), paths.client, paths.client_key),
    ):
        issued.private_key_pem.write_to_path(str(key))
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return paths
