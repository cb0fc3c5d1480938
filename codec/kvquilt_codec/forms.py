"""How objects are stored. What is stored is a form, what is asked for is a level: one form may serve several."""

import re
from dataclasses import dataclass

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import Level


@dataclass(frozen=True, slots=True)
class StorageForm:
    """How an object is encoded.

    Attributes:
        level: the finest level that it serves, `LOSSLESS` or `HIGH`.
        profile_digest: hex digest of the profile that it is coded with, or "" for none.

    Raises:
        BadRequestError: a level that no form stores, or a digest of another shape.
    """

    level: Level
    profile_digest: str = ""

    def __post_init__(self) -> None:
        stored = (Level.HIGH,) if self.profile_digest else (Level.LOSSLESS, Level.HIGH)
        if self.level not in stored:
            raise BadRequestError(
                f"expected to store at {' or '.join(level.value for level in stored)}; got {self.level.value}: "
                "coarser levels are read from an object that is coded with a profile"
            )
        if self.profile_digest:
            check_hex_digest(self.profile_digest, "profile digest")

    @property
    def name(self) -> str:
        """What keys and indexes call it: the profile's digest, or else the level."""
        return self.profile_digest or self.level.value

    @classmethod
    def named(cls, name: str) -> "StorageForm":
        """The form of a name.

        Raises:
            BadRequestError: no form has this name.
        """
        if name in (Level.LOSSLESS.value, Level.HIGH.value):
            return cls(Level(name))
        return cls(Level.HIGH, check_hex_digest(name, "profile digest"))


LOSSLESS = StorageForm(Level.LOSSLESS)


def check_hex_digest(text: str, what: str) -> str:
    """Return a SHA-256 in hex.

    Raises:
        BadRequestError: another shape.
    """
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise BadRequestError(f"expected a {what} of 64 hex digits; got {text[:80]!r}")
    return text
