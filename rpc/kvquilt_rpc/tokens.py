"""Bearer tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 or HMAC-SHA-256, made and verified with PyJWT.

The algorithm follows from the server's key, never from the token's header: else a public key could be used as a secret.
"""

import base64
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvquilt_codec.errors import BadRequestError, CapacityError, UnauthenticatedError
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.token_ends import TokenEnd, TokensInUse, end_of
from kvquilt_rpc.watched import Watched, read

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

AUDIENCE = "kvquilt"
MAX_TOKEN_BYTES = 4096
MIN_SECRET_BYTES = 32
MAX_KEYS = 16
LEEWAY_SECONDS = 5.0
"""How far the clocks of who made a token and of a server may differ."""
_KEPT = 1024
_PEM = b"-----BEGIN "


class TokenVerifier:
    """Tells whose tokens are genuine. Verified ones are remembered until they expire, at most 1,024.

    Args:
        key_file: Ed25519 public keys (PEM, several one after the other), or one secret of at least 32 bytes; read again
            when it changes.
        clock: seconds since 1970.

    Raises:
        NotFoundError, BadRequestError: the file is missing or holds neither.
        CapacityError: PyJWT is not installed.
    """

    def __init__(self, key_file: Path, clock: Callable[[], float]) -> None:
        _jwt()
        self._keys = Watched([key_file], lambda contents: _verifying_keys(contents[0], key_file))
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[Sequence[Any], TokenEnd, Identity]] = OrderedDict()
        self._in_use = TokensInUse()

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return len(self._keys.get())

    @property
    def ends(self) -> dict[str, TokenEnd]:
        """When the tokens that callers use expire: see `TokensInUse`."""
        return self._in_use.ends(self._clock())

    def verify(self, token: str) -> Identity:
        """Who a token says the caller is.

        Raises:
            UnauthenticatedError: reasons `token_oversized`, `token_malformed`, `token_signature`, `token_expired`,
                `token_not_yet_valid`, `token_audience`, `token_claims`.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise UnauthenticatedError(
                f"expected a token of at most {MAX_TOKEN_BYTES} bytes; got {len(token)}", reason="token_oversized"
            )
        keys, now = self._keys.get(), self._clock()
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        seen = self._seen.get(digest)
        if seen is not None and seen[0] is keys and now < seen[1].expires + LEEWAY_SECONDS:
            self._seen.move_to_end(digest)
            self._in_use.used(seen[2].namespaces[0], seen[1], now)
            return seen[2]
        claims = _verified(token, keys)
        end, identity = _end(claims), _identity(claims)
        self._in_use.used(identity.namespaces[0], end, now)
        _check_times(claims, end, now)
        self._seen[digest] = (keys, end, identity)
        while len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return identity


def create_token(key_file: Path, identity: Identity, lifetime: float, now: float) -> str:
    """A signed token.

    Args:
        key_file: an Ed25519 private key (PEM) or the servers' shared secret.
        identity: what it says.
        lifetime: seconds until it expires.
        now: seconds since 1970.

    Raises:
        NotFoundError, BadRequestError: the file is missing or holds neither; a lifetime that is not above 0.
    """
    if not lifetime > 0:
        raise BadRequestError(f"expected a lifetime above 0 seconds; got {lifetime:g}")
    content = read(key_file)
    claims: dict[str, Any] = {
        "sub": identity.name,
        "aud": AUDIENCE,
        "iat": int(now),
        "exp": int(now + lifetime),
        "namespace": list(identity.namespaces),
    }
    if identity.public_write:
        claims["public_write"] = True
    if content.startswith(_PEM):
        return str(_jwt().encode(claims, _private_key(content, key_file), algorithm="EdDSA"))
    return str(_jwt().encode(claims, _secret(content, key_file), algorithm="HS256"))


def create_key(private: Path) -> Path:
    """Make a pair of Ed25519 keys: the private one, for `create_token`, and beside it the public one, for servers.

    Returns:
        The public one's path: the private one's with ".pub" after it.

    Raises:
        BadRequestError: one of the files exists, or cannot be written.
    """
    _jwt()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    public = private.with_name(private.name + ".pub")
    kept = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.exists():
        raise BadRequestError(f"expected names of new files; {public} exists")
    write_new(private, kept, 0o600)
    write_new(public, told, 0o644)
    return public


def create_secret(path: Path) -> None:
    """Make a secret of 32 random bytes, as text, that signs and verifies.

    Raises:
        BadRequestError: the file exists or cannot be written.
    """
    write_new(path, base64.urlsafe_b64encode(secrets.token_bytes(32)) + b"\n", 0o600)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist.

    Raises:
        BadRequestError: it exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise BadRequestError(f"expected the name of a new file; {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _jwt() -> Any:
    try:
        import cryptography
        import jwt
    except ImportError:
        raise CapacityError("expected PyJWT for bearer tokens: pip install 'kvquilt[auth]'") from None
    del cryptography
    return jwt


def _verified(token: str, keys: Sequence[Any]) -> dict[str, Any]:
    jwt = _jwt()
    required = {"require": ["exp", "sub", "aud"], "verify_exp": False, "verify_iat": False, "verify_nbf": False}
    for number, key in enumerate(keys, start=1):
        algorithm = "HS256" if isinstance(key, bytes) else "EdDSA"
        try:
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm], audience=AUDIENCE, options=required)
        except jwt.InvalidSignatureError:
            if number < len(keys):
                continue
            raise UnauthenticatedError(
                "expected a token signed with the servers' key; its signature is another's, or it was altered",
                reason="token_signature",
            ) from None
        except jwt.InvalidAlgorithmError:
            raise UnauthenticatedError(
                f"expected a token signed with {algorithm}; it names another algorithm", reason="token_signature"
            ) from None
        except jwt.InvalidAudienceError:
            raise UnauthenticatedError(
                f"expected a token for audience {AUDIENCE!r}; it is for another", reason="token_audience"
            ) from None
        except jwt.MissingRequiredClaimError as error:
            raise UnauthenticatedError(
                f"expected a token with the claims exp, sub and aud; it has no {error.claim}", reason="token_claims"
            ) from None
        except jwt.DecodeError:
            raise UnauthenticatedError("expected a JSON Web Token; it is none", reason="token_malformed") from None
        except jwt.InvalidTokenError:
            raise UnauthenticatedError("expected a valid JSON Web Token; it is none", reason="token_claims") from None
        return claims
    raise UnauthenticatedError("expected a token signed with the servers' key", reason="token_signature")


def _end(claims: dict[str, Any]) -> TokenEnd:
    end = end_of(claims)
    if end is None:
        raise UnauthenticatedError("expected a number as the token's exp", reason="token_claims")
    return end


def _check_times(claims: dict[str, Any], end: TokenEnd, now: float) -> None:
    if "nbf" in claims and (isinstance(claims["nbf"], bool) or not isinstance(claims["nbf"], (int, float))):
        raise UnauthenticatedError("expected a number as the token's nbf", reason="token_claims")
    if not now < end.expires + LEEWAY_SECONDS:
        raise UnauthenticatedError(
            f"expected a token that is valid; it expired {now - end.expires:.0f} s ago: ask for another",
            reason="token_expired",
        )
    if not now >= claims.get("nbf", 0) - LEEWAY_SECONDS:
        raise UnauthenticatedError(
            f"expected a token that is valid; it will be in {claims['nbf'] - now:.0f} s", reason="token_not_yet_valid"
        )


def _identity(claims: dict[str, Any]) -> Identity:
    namespaces = claims.get("namespace")
    if isinstance(namespaces, str):
        namespaces = [namespaces]
    if not isinstance(namespaces, list) or not all(isinstance(name, str) for name in namespaces):
        raise UnauthenticatedError(
            "expected a token whose claim namespace is a name or a list of names", reason="token_claims"
        )
    try:
        return Identity(str(claims["sub"]), tuple(namespaces), claims.get("public_write") is True)
    except BadRequestError as error:
        raise UnauthenticatedError(str(error), reason="token_claims") from None


def _secret(content: bytes, path: Path) -> bytes:
    secret = content.strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise BadRequestError(
            f"expected a PEM file, or a secret of at least {MIN_SECRET_BYTES} bytes, in {path}; it holds "
            f"{len(secret)}: make one with `kvquilt token key`"
        )
    return secret


def _private_key(content: bytes, path: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadRequestError(f"expected an Ed25519 private key without a password in {path}; it holds none") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadRequestError(f"expected an Ed25519 private key in {path}; it holds another kind")
    return key


def _verifying_keys(content: bytes, path: Path) -> "Sequence[Ed25519PublicKey | bytes]":
    if not content.startswith(_PEM):
        return (_secret(content, path),)
    if b"PRIVATE KEY-----" in content:
        raise BadRequestError(
            f"expected public keys in {path}; it holds a private one: servers need the .pub file only"
        )
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys: list[Ed25519PublicKey | bytes] = []
    for block in content.split(_PEM)[1:]:
        try:
            key = serialization.load_pem_public_key(_PEM + block)
        except (ValueError, UnsupportedAlgorithm):
            raise BadRequestError(f"expected Ed25519 public keys (PEM) in {path}; one is damaged") from None
        if not isinstance(key, Ed25519PublicKey):
            raise BadRequestError(f"expected Ed25519 public keys in {path}; one is of another kind")
        keys.append(key)
    if len(keys) > MAX_KEYS:
        raise BadRequestError(f"expected at most {MAX_KEYS} public keys in {path}; it holds {len(keys)}")
    return tuple(keys)
