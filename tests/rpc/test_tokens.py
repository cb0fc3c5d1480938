"""Tokens: what a server takes as genuine, and what it says of everything else."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kvquilt_codec.errors import BadRequestError, NotFoundError, UnauthenticatedError
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.tokens import MAX_TOKEN_BYTES, TokenVerifier, create_key, create_secret, create_token
from tests.rpc.certificates import Signer

NOW = 1_800_000_000.0
IDENTITY = Identity("tenant-a", ("a", "shared"), public_write=True)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.new(tmp_path / "key")


def verifier(path: Path, now: float = NOW) -> TokenVerifier:
    return TokenVerifier(path, lambda: now)


def reason(path: Path, token: str, now: float = NOW) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        verifier(path, now).verify(token)
    assert not token or token[:40] not in str(caught.value)
    return caught.value.reason


def signed(signer: Signer, **claims: object) -> str:
    given = {"sub": "x", "aud": "kvquilt", "exp": NOW + 60, "namespace": "a"} | claims
    return jwt.encode({name: value for name, value in given.items() if value is not None}, key_of(signer), "EdDSA")


def key_of(signer: Signer):
    return serialization.load_pem_private_key(signer.private.read_bytes(), None)


def test_a_token_says_who_calls(signer: Signer) -> None:
    assert verifier(signer.public).verify(create_token(signer.private, IDENTITY, 60, NOW)) == IDENTITY


def test_a_shared_secret_signs_and_verifies(tmp_path: Path) -> None:
    create_secret(tmp_path / "secret")
    assert verifier(tmp_path / "secret").verify(create_token(tmp_path / "secret", IDENTITY, 60, NOW)) == IDENTITY


def test_a_token_holds_until_it_expires_also_once_it_was_verified(signer: Signer) -> None:
    token, clock = create_token(signer.private, IDENTITY, 60, NOW), [NOW]
    verifying = TokenVerifier(signer.public, lambda: clock[0])
    for clock[0] in (NOW, NOW + 59):
        assert verifying.verify(token) == IDENTITY
    clock[0] = NOW + 66
    with pytest.raises(UnauthenticatedError, match="it expired 6 s ago"):
        verifying.verify(token)
    assert reason(signer.public, token, NOW + 66) == "token_expired"


def test_every_other_token_is_refused_with_its_reason(signer: Signer, tmp_path: Path) -> None:
    other = Signer.new(tmp_path / "other")
    good = signed(signer)
    head, body, signature = good.split(".")
    richer = json.loads(base64.urlsafe_b64decode(body + "==")) | {"public_write": True}
    altered = base64.urlsafe_b64encode(json.dumps(richer).encode()).decode().rstrip("=")
    unsigned = jwt.encode({"sub": "x", "aud": "kvquilt", "exp": NOW + 60, "namespace": "a"}, None, "none")
    found = {
        signed(other): "token_signature",
        f"{head}.{altered}.{signature}": "token_signature",
        f"{head}.{body}.": "token_signature",
        unsigned: "token_signature",
        signed(signer, aud="another"): "token_audience",
        signed(signer, aud=None): "token_claims",
        signed(signer, exp=None): "token_claims",
        signed(signer, exp="soon"): "token_claims",
        signed(signer, exp=True): "token_claims",
        signed(signer, sub=None): "token_claims",
        signed(signer, sub=""): "token_claims",
        signed(signer, namespace=None): "token_claims",
        signed(signer, namespace=[]): "token_claims",
        signed(signer, namespace=["a", 1]): "token_claims",
        signed(signer, namespace="../a"): "token_claims",
        signed(signer, namespace=[f"n{i}" for i in range(65)]): "token_claims",
        signed(signer, nbf=NOW + 60): "token_not_yet_valid",
        signed(signer, exp=NOW - 60): "token_expired",
        "no token at all": "token_malformed",
        "a.b.c": "token_malformed",
        "": "token_malformed",
        "x" * (MAX_TOKEN_BYTES + 1): "token_oversized",
    }
    assert {token: reason(signer.public, token) for token in found} == found


def test_a_public_key_is_no_secret(signer: Signer) -> None:
    """The classic confusion: a token "signed" with the public key's bytes as an HMAC secret."""
    header, payload = (
        {"alg": "HS256", "typ": "JWT"},
        {"sub": "x", "aud": "kvquilt", "exp": NOW + 60, "namespace": "a"},
    )
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, payload)]
    mac = hmac.digest(signer.public.read_bytes(), ".".join(parts).encode(), hashlib.sha256)
    forged = ".".join([*parts, base64.urlsafe_b64encode(mac).decode().rstrip("=")])
    assert reason(signer.public, forged) == "token_signature"


def test_public_write_takes_a_true_and_nothing_like_it(signer: Signer) -> None:
    for value in ("true", 1, "yes", [True]):
        assert not verifier(signer.public).verify(signed(signer, public_write=value)).public_write
    assert verifier(signer.public).verify(signed(signer, public_write=True)).public_write


def test_keys_are_replaced_while_both_hold(signer: Signer, tmp_path: Path) -> None:
    new = Signer.new(tmp_path / "new")
    old_token, new_token = (create_token(s.private, IDENTITY, 60, NOW) for s in (signer, new))
    verifying = verifier(signer.public)
    assert verifying.verify(old_token) == IDENTITY
    signer.public.write_bytes(signer.public.read_bytes() + new.public.read_bytes())
    assert verifying.verify(old_token) == verifying.verify(new_token) == IDENTITY
    signer.public.write_bytes(new.public.read_bytes())
    assert verifying.verify(new_token) == IDENTITY
    with pytest.raises(UnauthenticatedError, match="signature"):
        verifying.verify(old_token)


def test_a_key_file_that_is_damaged_while_a_server_runs_changes_nothing(
    signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    verifying, token = verifier(signer.public), create_token(signer.private, IDENTITY, 60, NOW)
    signer.public.write_bytes(b"-----BEGIN PUBLIC KEY-----\nnothing\n")
    assert verifying.verify(token) == verifying.verify(token) == IDENTITY
    assert len([record for record in caplog.records if "what was read before stays" in record.message]) == 1


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"short", "at least 32 bytes"), (b"-----BEGIN PUBLIC KEY-----\nx\n", "one is damaged"), (b"", "it holds 0")],
)
def test_a_key_file_that_is_none_is_refused_at_start(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(BadRequestError, match=match):
        verifier(tmp_path / "key")


def test_servers_refuse_a_private_key_and_other_kinds(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=r"the \.pub file only"):
        verifier(signer.private)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec").write_bytes(
        other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(BadRequestError, match="of another kind"):
        verifier(tmp_path / "ec")
    with pytest.raises(NotFoundError, match="missing"):
        verifier(tmp_path / "missing")


def test_new_keys_are_for_their_owner_only_and_replace_nothing(tmp_path: Path) -> None:
    create_key(tmp_path / "key")
    create_secret(tmp_path / "secret")
    for name in ("key", "secret"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        before = (tmp_path / name).read_bytes()
        with pytest.raises(BadRequestError, match="new file"):
            create_secret(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(BadRequestError, match="above 0"):
        create_token(tmp_path / "key", IDENTITY, 0, time.time())
