"""When tokens expire: as they say it, and as servers see it of those that callers use."""

from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import KvquiltError, NotFoundError, UnauthenticatedError
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.token_ends import (
    ASSUMED_LIFETIME,
    IN_USE_SECONDS,
    MAX_TENANTS,
    TokenEnd,
    TokensInUse,
    end_of,
    stated_end,
    token_of,
)
from kvquilt_rpc.tokens import TokenVerifier, create_secret, create_token

NOW = 1_800_000_000.0


def test_a_token_says_when_it_expires_and_for_how_long_it_was_made(tmp_path: Path) -> None:
    create_secret(tmp_path / "secret")
    token = create_token(tmp_path / "secret", Identity("a", ("a",)), 3600, NOW)
    assert stated_end(token) == TokenEnd(NOW + 3600, 3600)
    (tmp_path / "token").write_text(f"{token}\n")
    assert token_of(Credentials(token_file=tmp_path / "token")) == token
    assert token_of(Credentials(token=token)) == token
    assert token_of(Credentials()) == ""
    with pytest.raises(NotFoundError):
        token_of(Credentials(token_file=tmp_path / "none"))


def test_of_a_token_that_does_not_say_since_when_it_holds_a_lifetime_is_assumed() -> None:
    assert end_of({"exp": NOW, "nbf": NOW - 50}) == TokenEnd(NOW, 50)
    for issued in (None, "yesterday", True, float("nan"), float("inf"), NOW, NOW + 1, 10**400):
        assert end_of({"exp": NOW, "iat": issued}) == TokenEnd(NOW, ASSUMED_LIFETIME)
    for expires in (None, "tomorrow", True, float("nan"), float("inf"), 10**400, []):
        assert end_of({"exp": expires, "iat": NOW}) is None


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x)).map(str)))
def test_what_is_no_token_says_nothing(text: str) -> None:
    assert stated_end(text) is None
    assert stated_end(f"a.{text}.c") is None


def test_what_is_no_mapping_or_deeply_nested_says_nothing() -> None:
    for payload in (b"[1]", b"3", b"[" * 100_000, b"\xff"):
        encoded = jwt.utils.base64url_encode(payload).decode()
        assert stated_end(f"a.{encoded}.c") is None


def test_of_a_tenants_tokens_the_one_with_the_least_left_counts_while_it_is_in_use() -> None:
    uses, old, new, short = TokensInUse(), TokenEnd(NOW + 60, 3600), TokenEnd(NOW + 3600, 3600), TokenEnd(NOW + 90, 100)
    uses.used("a", old, NOW)
    uses.used("a", new, NOW + 1)
    uses.used("a", short, NOW + 1)
    uses.used("b", new, NOW + 1)
    assert uses.ends(NOW + 2) == {"a": old, "b": new}, "others of the same tenant go on with the old one"
    uses.used("a", new, NOW + IN_USE_SECONDS + 1)
    uses.used("b", new, NOW + IN_USE_SECONDS)
    assert uses.ends(NOW + IN_USE_SECONDS + 1) == {"a": new, "b": new}, "nobody has shown the old one for a while"
    assert uses.ends(NOW + 3 * IN_USE_SECONDS) == {}


def test_no_more_tenants_are_known_than_may() -> None:
    uses = TokensInUse()
    for number in range(MAX_TENANTS + 5):
        uses.used(str(number), TokenEnd(NOW, 1), NOW)
    assert len(uses.ends(NOW)) == MAX_TENANTS
    assert "4" not in uses.ends(NOW)


def test_tokens_count_once_their_signature_holds_also_when_they_have_expired(tmp_path: Path) -> None:
    key, other = tmp_path / "secret", tmp_path / "other"
    create_secret(key)
    create_secret(other)
    now = [NOW]
    verifier = TokenVerifier(key, lambda: now[0])

    def shown(secret: Path, **claims: Any) -> str:
        given = {"sub": "x", "aud": "kvquilt", "exp": NOW + 60, "iat": NOW, "namespace": ["team", "more"]} | claims
        token = jwt.encode(given, secret.read_bytes().strip(), "HS256")
        try:
            verifier.verify(token)
        except KvquiltError as error:
            return error.reason
        return ""

    assert shown(other) == "token_signature"
    assert shown(key, exp=float("inf")) == shown(key, nbf="soon", namespace="else") == "token_claims"
    assert verifier.ends.keys() <= {"else"}
    assert shown(key) == shown(key) == ""
    assert verifier.ends["team"] == TokenEnd(NOW + 60, 60)
    now[0] = NOW + 3000
    assert verifier.ends == {}
    assert shown(key) == "token_expired"
    assert verifier.ends == {"team": TokenEnd(NOW + 60, 60)}, "its owner goes on with it"
    with pytest.raises(UnauthenticatedError):
        verifier.verify("no token")
