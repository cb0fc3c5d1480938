"""From the level that a request asks for to what is stored, and how much of it is read. Pure computation."""

import math
import re
from dataclasses import dataclass

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.profile.types import LevelCard, Profile
from kvquilt_codec.types import Level

_FINEST_FIRST = (Level.LOSSLESS, Level.HIGH, Level.MEDIUM, Level.LOW)
_BOUND = re.compile(r"kl\s*<\s*(\S+)")


@dataclass(frozen=True, slots=True)
class KlBound:
    """A level given by what it may cost: KL(full || codec) of the next token below `kl`, in nats.

    Raises:
        BadRequestError: not a finite number above 0.
    """

    kl: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kl) and self.kl > 0):
            raise BadRequestError(f"expected a KL bound above 0, in nats; got {self.kl}: or ask for lossless")


LevelRequest = Level | KlBound
"""What a request may ask for."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a level is read from.

    Attributes:
        level: the level that the reader gets.
        form: of the stored object.
        quality_layers: how many of them are read, the coarsest first; 0 reads all.
    """

    level: Level
    form: StorageForm
    quality_layers: int = 0


LOSSLESS_POINT = OperatingPoint(Level.LOSSLESS, LOSSLESS)


def parse_level(text: str) -> LevelRequest:
    """A level by name, or a bound like "kl<1e-3".

    Raises:
        BadRequestError: neither.
    """
    stripped = text.strip().lower()
    if stripped in {level.value for level in Level}:
        return Level(stripped)
    if (found := _BOUND.fullmatch(stripped)) is not None:
        try:
            return KlBound(float(found[1]))
        except ValueError:
            pass
    raise BadRequestError(
        f"expected a level in {[level.value for level in Level]}, or a bound like 'kl<1e-3'; got {text[:40]!r}"
    )


def operating_point(request: LevelRequest, profile: Profile | None, digest: str = "") -> OperatingPoint:
    """The cheapest operating point that gives what is asked for.

    Args:
        request: a level, or a bound on its measured KL. Where no measured level meets a bound, lossless does.
        profile: the profile in force; without one there are `LOSSLESS` and `HIGH` (8 bits), and none is measured.
        digest: of the profile.

    A level that the profile has not is read as the next better one, lossless at last.

    Raises:
        BadRequestError: a level that takes a profile, and there is none, or one that has no measured level.
    """
    if request is Level.LOSSLESS:
        return LOSSLESS_POINT
    if profile is None:
        if isinstance(request, KlBound):
            return LOSSLESS_POINT
        if request is not Level.HIGH:
            raise BadRequestError(
                f"expected level lossless or high: no profile is in force; got {request.value}: make one with "
                "`kvquilt calibrate` and name it in router.profile",
                reason="no_profile",
            )
        return OperatingPoint(Level.HIGH, StorageForm(Level.HIGH))
    cards = level_cards(profile)
    if not cards:
        raise BadRequestError(f"expected a profile with measured levels; {digest[:16]}... has none: calibrate again")
    if isinstance(request, KlBound):
        meeting = {level: card for level, card in cards.items() if card.kl < request.kl}
        if not meeting:
            return LOSSLESS_POINT
        level = min(meeting, key=lambda level: meeting[level].bits_per_element)
    else:
        better = _FINEST_FIRST[: _FINEST_FIRST.index(request) + 1]
        found = next((candidate for candidate in reversed(better) if candidate in cards), None)
        if found is None:
            return LOSSLESS_POINT
        level = found
    return OperatingPoint(level, StorageForm(Level.HIGH, digest), cards[level].quality_layers)


def level_cards(profile: Profile) -> dict[Level, LevelCard]:
    """What a profile measured of each level, the finest first."""
    names = {level.value: level for level in Level if level is not Level.LOSSLESS}
    usable = [
        card for card in profile.cards if card.level in names and 1 <= card.quality_layers <= len(profile.quality)
    ]
    return {names[card.level]: card for card in sorted(usable, key=lambda card: -card.quality_layers)}
