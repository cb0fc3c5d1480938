"""How long an object may stay: what its writer asks for, and what an operator makes of it."""

import math
from dataclasses import dataclass

from kvquilt_codec.errors import BadRequestError, IntegrityError

MAX_TTL_SECONDS = 1e9
"""About 31 years."""


def check_ttl(seconds: float) -> float:
    """Return a time to live.

    Raises:
        BadRequestError: not above 0, or above `MAX_TTL_SECONDS`.
    """
    if not 0 < seconds <= MAX_TTL_SECONDS:
        raise BadRequestError(f"expected a TTL above 0 and at most {MAX_TTL_SECONDS:g} seconds; got {seconds}")
    return seconds


@dataclass(frozen=True, slots=True)
class Ttl:
    """A time to live that a writer gives to what it will store: seconds, and whether each use begins them anew.

    Raises:
        BadRequestError: a TTL that cannot be.
    """

    seconds: float
    renewed: bool = False

    def __post_init__(self) -> None:
        check_ttl(self.seconds)

    def from_now(self, now: float) -> "Lifetime":
        """Of what is stored now, in seconds since the epoch."""
        return Lifetime(self.seconds, self.renewed, now + self.seconds)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The time to live of an object.

    Attributes:
        seconds: the TTL, from when the object was stored; if it is renewed, from its last use.
        renewed: whether each use begins it anew.
        until: when it ends without a renewal, in seconds since the epoch by its writer's clock. A store goes by its own
            clock and by `seconds`; what is rebuilt from an object's bytes goes by this.

    Raises:
        BadRequestError: a TTL or an end that cannot be.
    """

    seconds: float
    renewed: bool
    until: float

    def __post_init__(self) -> None:
        check_ttl(self.seconds)
        if not (math.isfinite(self.until) and self.until >= 0):
            raise BadRequestError(f"expected a TTL that ends in seconds since the epoch; got {self.until}")


@dataclass(frozen=True, slots=True)
class LifetimePolicy:
    """What a store makes of the TTL that is asked for.

    Attributes:
        default: seconds of what is stored without one; 0: it stays for good.
        renewed: whether uses renew that one.
        most: most seconds, also of what is stored without one; 0: no limit.
    """

    default: float = 0.0
    renewed: bool = False
    most: float = 0.0

    def of(self, asked: Lifetime | None, now: float) -> Lifetime | None:
        """The lifetime that holds for an object; `None`: it stays for good.

        Args:
            asked: by its writer.
            now: seconds since the epoch; what has no TTL of its own, or a longer one than it may, ends that much later.
        """
        seconds = asked.seconds if asked is not None else self.default
        if self.most:
            seconds = min(seconds or self.most, self.most)
        if not seconds or (asked is not None and seconds == asked.seconds):
            return asked
        renewed = self.renewed if asked is None else asked.renewed
        until = now + seconds
        return Lifetime(seconds, renewed, until if asked is None else min(until, asked.until))


def to_attributes(lifetime: Lifetime | None) -> dict[str, str]:
    """What a container's header carries of it."""
    if lifetime is None:
        return {}
    return {
        "ttl_renewed": "true" if lifetime.renewed else "false",
        "ttl_seconds": repr(lifetime.seconds),
        "ttl_until": repr(lifetime.until),
    }


def from_attributes(given: dict[str, str]) -> Lifetime | None:
    """What a container's header says of it.

    Raises:
        IntegrityError: a part of it is missing, or cannot be.
    """
    names = ("ttl_seconds", "ttl_renewed", "ttl_until")
    if not any(name in given for name in names):
        return None
    try:
        seconds, renewed, until = (given[name] for name in names)
        return Lifetime(float(seconds), {"true": True, "false": False}[renewed], float(until))
    except (KeyError, ValueError, BadRequestError) as error:
        raise IntegrityError(f"expected a TTL in the header, whole; got {error}") from None
