"""What files of a gate and of its audits have in common: JSON, strictly checked, addressed by its SHA-256."""

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.gate.types import CONTEXTS


class Point(Protocol):
    """An entry of either: one operating point."""

    @property
    def key(self) -> tuple[str, float, str, str]:
        """That the point is known by."""
        ...

    @property
    def context(self) -> str:
        """Of the chunks that it is about."""
        ...


class Pointed(Protocol):
    """What a file holds."""

    @property
    def points(self) -> Sequence[Point]:
        """By operating point."""
        ...


Content = TypeVar("Content", bound=Pointed)


def digest(data: bytes) -> str:
    """Address of a file: SHA-256 of its bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def read(
    data: bytes, kind: type[Content], name: str, max_bytes: int, expected_digest: str | None, advice: str = ""
) -> Content:
    """What a file holds, each operating point once.

    Args:
        data: the file.
        kind: of its content.
        name: of such a file, for messages: "a gate file".
        max_bytes: of one.
        expected_digest: its address, if it is known.
        advice: what to do about bytes that are no such file.

    Raises:
        IntegrityError: too many bytes, other ones than the digest's, or not such a file.
    """
    if len(data) > max_bytes:
        raise IntegrityError(f"expected {name} of at most {max_bytes} bytes; got {len(data)}")
    if expected_digest is not None and digest(data) != expected_digest:
        raise IntegrityError(f"expected {name} of this digest; got other bytes", reason="checksum")
    try:
        content = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected {name}; got {error}{advice}") from None
    if len({point.key for point in content.points}) != len(content.points):
        raise IntegrityError(f"expected {name} with one entry per operating point; some are there twice")
    for point in content.points:
        if point.context not in CONTEXTS:
            raise IntegrityError(f"expected {name} of contexts in {list(CONTEXTS)}; it has {point.context[:40]!r}")
    return content
