"""From a call's credentials to the identity behind it: a bearer token, else the client's certificate."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import yaml

from kvquilt_codec.errors import BadRequestError, PermissionDeniedError, UnauthenticatedError
from kvquilt_rpc.callers import ANONYMOUS, NAMESPACE_KEY, Identity
from kvquilt_rpc.security import ServerSecurity
from kvquilt_rpc.tls import is_loopback, server_credentials
from kvquilt_rpc.token_ends import TokenEnd
from kvquilt_rpc.tokens import TokenVerifier
from kvquilt_rpc.watched import Watched

AUTHORIZATION = "authorization"
_SCHEME = "bearer "
_CERTIFICATE_NAMES = ("x509_subject_alternative_name", "x509_common_name")


class Call(Protocol):
    """What is known of a call before it is served; gRPC's servicer context has it."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]] | None:
        """What the caller sent beside the request."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What TLS knows of the caller."""


class Authenticator:
    """Tells who calls, by a server's settings.

    Args:
        security: see there.
        host: address that the server listens on.
        clock: seconds since 1970.

    Attributes:
        tls: for the server's port; `None`: clear text.
        open: nobody is asked who calls.

    Raises:
        BadRequestError: settings that contradict each other, or that would serve everybody without saying so.
        NotFoundError: a file is missing.
        CapacityError: tokens without the package that verifies them.
    """

    def __init__(self, security: ServerSecurity, host: str, clock: Callable[[], float] = time.time) -> None:
        check(security, host)
        self.tls: grpc.ServerCredentials | None = None
        if security.tls_cert is not None and security.tls_key is not None:
            self.tls = server_credentials(security.tls_cert, security.tls_key, security.tls_client_ca)
        self._tokens = None if security.token_key is None else TokenVerifier(security.token_key, clock)
        self._certificates: Watched[dict[str, Identity]] | None = None
        if security.identities is not None:
            path = security.identities
            self._certificates = Watched([path], lambda contents: identities(contents[0], path))
        self.open = self._tokens is None and self._certificates is None

    @property
    def token_keys(self) -> int:
        """How many keys bearer tokens are verified by."""
        return 0 if self._tokens is None else self._tokens.keys

    @property
    def token_ends(self) -> dict[str, TokenEnd]:
        """When bearer tokens that callers use expire, by their first namespace; of each the one with the least left."""
        return {} if self._tokens is None else self._tokens.ends

    def identify(self, call: Call) -> Identity:
        """Who makes a call, and in which namespace.

        Raises:
            UnauthenticatedError: no credentials, or none that hold.
            PermissionDeniedError: a certificate or a namespace that is not allowed.
            BadRequestError: a namespace that is none.
        """
        metadata = {key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
        return self._identity(metadata, call).acting(metadata.get(NAMESPACE_KEY, ""))

    def _identity(self, metadata: Mapping[str, str], call: Call) -> Identity:
        if self.open:
            return ANONYMOUS
        given = metadata.get(AUTHORIZATION)
        if given is not None and self._tokens is not None:
            if not given.lower().startswith(_SCHEME):
                raise UnauthenticatedError(
                    "expected the metadata authorization to be Bearer TOKEN; got something else",
                    reason="token_malformed",
                )
            return self._tokens.verify(given[len(_SCHEME) :].strip())
        if self._certificates is not None:
            return self._by_certificate(self._certificates.get(), call.auth_context())
        raise UnauthenticatedError(
            "expected a bearer token in the metadata authorization; got none: make one with `kvquilt token create`",
            reason="token_missing",
        )

    @staticmethod
    def _by_certificate(known: Mapping[str, Identity], tls: Mapping[str, Sequence[bytes]]) -> Identity:
        names = [name.decode("utf-8", "replace") for kind in _CERTIFICATE_NAMES for name in tls.get(kind, ())]
        for name in names:
            if name in known:
                return known[name]
        raise PermissionDeniedError(
            f"expected a certificate whose name the server's identities list; got {names[:8]}",
            reason="certificate_unknown",
        )


def check(security: ServerSecurity, host: str) -> None:
    """Refuse settings that contradict each other, or that would serve everybody without saying so.

    Raises:
        BadRequestError: with what to do.
    """
    if (security.tls_cert is None) != (security.tls_key is None):
        raise BadRequestError("expected tls_cert and tls_key together; got one of them")
    if security.tls_client_ca is not None and security.tls_cert is None:
        raise BadRequestError("expected tls_cert and tls_key with tls_client_ca; got none")
    if security.identities is not None and security.tls_client_ca is None:
        raise BadRequestError("expected tls_client_ca with identities: names of certificates that nobody checked")
    if security.tls_client_ca is not None and security.identities is None and security.token_key is None:
        raise BadRequestError("expected identities or token_key with tls_client_ca: a certificate alone is no identity")
    if is_loopback(host):
        return
    if security.token_key is None and security.identities is None and not security.allow_anonymous:
        raise BadRequestError(
            f"expected callers of {host} to be asked who they are, since others than this machine reach it; got "
            "neither token_key nor identities: set one, listen on 127.0.0.1, or set allow_anonymous=true"
        )
    if security.token_key is not None and security.tls_cert is None and not security.allow_cleartext:
        raise BadRequestError(
            f"expected TLS for tokens on {host}: in clear text whoever listens could use them; set tls_cert and "
            "tls_key, or allow_cleartext=true if TLS ends in front of the server"
        )


def identities(content: bytes, path: Path) -> dict[str, Identity]:
    """Identities by the names of certificates.

    The file is a mapping: name -> `identity` (by default the name), `namespaces` (a list), `public_write` (by default
    false). Names are subject alternative names or the common name.

    Raises:
        BadRequestError: something else.
    """
    try:
        tree: Any = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadRequestError(f"expected YAML in {path}; it is none") from None
    if not isinstance(tree, dict) or not tree:
        raise BadRequestError(f"expected a mapping from names of certificates to identities in {path}; got none")
    found = {}
    for name, entry in tree.items():
        fields = entry if isinstance(entry, dict) else {}
        namespaces, write = fields.get("namespaces"), fields.get("public_write", False)
        if (
            not isinstance(name, str)
            or not isinstance(namespaces, list)
            or not isinstance(write, bool)
            or not set(fields) <= {"identity", "namespaces", "public_write"}
        ):
            raise BadRequestError(
                f"expected identity, namespaces (a list) and public_write of {name!r} in {path}; got something else"
            )
        found[name] = Identity(str(fields.get("identity", name)), tuple(map(str, namespaces)), write)
    return found
