"""What a server or a client refuses of its own settings, before anything listens or is sent."""

from pathlib import Path

import pytest

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import (
    BadRequestError,
    NotFoundError,
)
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.security import ServerSecurity
from tests.rpc.certificates import (
    Authority,
    Signer,
    calling,
    every_kind_of_call,
    node,
)

# Settings that a server refuses


def combinations(authority: Authority, signer: Signer, identities: Path) -> list[tuple[dict[str, object], str, str]]:
    server = authority.issue("server", "localhost")
    another = authority.issue("another", "localhost")
    own = {"tls_cert": server.cert, "tls_key": server.key}
    ca = {"tls_client_ca": authority.pem}
    loopback, everywhere = "127.0.0.1", "0.0.0.0"  # noqa: S104  refused before anything listens
    return [
        ({}, everywhere, "allow_anonymous"),
        (own, everywhere, "allow_anonymous"),
        ({"token_key": signer.public}, everywhere, "expected TLS for tokens"),
        ({}, "localhost.example", "allow_anonymous"),
        ({"tls_cert": server.cert}, loopback, "tls_cert and tls_key together"),
        (own | {"tls_key": another.key}, loopback, "do not belong together"),
        (own | {"tls_cert": signer.public}, loopback, "expected a certificate chain"),
        (own | ca, loopback, "expected identities or token_key"),
        (own | {"identities": identities}, loopback, "expected tls_client_ca with identities"),
        (ca | {"identities": identities}, loopback, "expected tls_cert and tls_key with tls_client_ca"),
        (own | {"tls_client_ca": signer.public, "identities": identities}, loopback, "expected certificates"),
        (own | ca | {"identities": signer.public}, loopback, "expected (YAML|a mapping)"),
        ({"token_key": signer.private}, loopback, "the .pub file only"),
    ]


async def test_settings_that_cannot_be_are_refused_before_anything_listens(
    authority: Authority, signer: Signer, identities: Path, tmp_path: Path
) -> None:
    for settings, host, match in combinations(authority, signer, identities):
        with pytest.raises(BadRequestError, match=match):
            async with running_node(
                NodeSettings(host=host, port=0, store="memory", security=ServerSecurity(**settings))
            ):
                pass
    with pytest.raises(NotFoundError, match="missing"):
        async with node(ServerSecurity(token_key=tmp_path / "missing")):
            pass


async def test_everybody_is_let_in_only_where_that_is_said() -> None:
    everywhere = "0.0.0.0"  # noqa: S104  on a free port, for a moment
    settings = NodeSettings(host=everywhere, port=0, store="memory", security=ServerSecurity(allow_anonymous=True))
    async with running_node(settings) as address, calling(f"127.0.0.1:{address.rpartition(':')[2]}") as client:
        await every_kind_of_call(client)


# Credentials that a client refuses


@pytest.mark.parametrize(
    ("credentials", "match"),
    [
        ({"token": "x.y.z"}, "expected TLS to send a token"),
        ({"token": "x\ny", "tls": True}, "ASCII"),
        ({"token": "x", "token_file": "t", "tls": True}, "got both"),
        ({"tls_cert": "c", "tls_key": "k"}, "got neither"),
        ({"tls_cert": "c", "tls": True}, "together"),
        ({"namespace": "a/b"}, "expected a namespace"),
    ],
)
async def test_credentials_that_cannot_be_are_refused_before_a_call(credentials: dict[str, object], match: str) -> None:
    with pytest.raises(BadRequestError, match=match) as caught:
        async with calling("node.example:7411", **credentials):
            pass
    assert "x.y.z" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "x y", "x" * 257, "x\n"])
def test_an_identity_has_a_name(name: str) -> None:
    with pytest.raises(BadRequestError, match="expected an identity"):
        Identity(name, ("a",))
