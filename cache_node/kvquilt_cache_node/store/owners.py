"""Whose a key is."""

from typing import NoReturn

from kvquilt_codec.errors import PermissionDeniedError


def check_owner(key: bytes, found: str, expected: str) -> None:
    """Let nobody store under a key that is another namespace's.

    Raises:
        PermissionDeniedError: the two differ.
    """
    if found != expected:
        refuse_owner(key, expected)


def refuse_owner(key: bytes, expected: str) -> NoReturn:
    """Refuse to store under a key that is another namespace's; it takes a mistake or malice to make one.

    Raises:
        PermissionDeniedError: always.
    """
    raise PermissionDeniedError(
        f"expected object {key.hex()[:16]}... to be of namespace {expected!r}; what is stored under this key is of "
        "another one: make keys with the namespace's own secret",
        reason="namespace_denied",
    )
