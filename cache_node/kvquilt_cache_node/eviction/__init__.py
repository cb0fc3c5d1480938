"""Eviction policies: pure logic, one a file. Start with `types`."""

from collections.abc import Callable, Mapping
from random import Random

from kvquilt_cache_node.eviction.arc import Arc
from kvquilt_cache_node.eviction.belady import Belady
from kvquilt_cache_node.eviction.gdsf import Gdsf
from kvquilt_cache_node.eviction.hit_density import HitDensity, by_savings
from kvquilt_cache_node.eviction.lfu import Lfu
from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.eviction.random_choice import RandomChoice
from kvquilt_cache_node.eviction.s3_fifo import S3Fifo
from kvquilt_cache_node.eviction.types import Entry, EvictionPolicy, Key
from kvquilt_codec.errors import BadRequestError

__all__ = ["DEFAULT", "POLICIES", "Belady", "Entry", "EvictionPolicy", "Key", "make_policy"]

_MAKERS: Mapping[str, Callable[[int, Random], EvictionPolicy]] = {
    "hit-density": lambda capacity, _: HitDensity(capacity),
    "saved-density": lambda capacity, _: HitDensity(capacity, by_savings),
    "gdsf": lambda *_: Gdsf(),
    "lru": lambda *_: Lru(),
    "lfu": lambda *_: Lfu(),
    "arc": lambda capacity, _: Arc(capacity),
    "s3-fifo": lambda capacity, _: S3Fifo(capacity),
    "random": lambda _, random: RandomChoice(random),
}
POLICIES = tuple(_MAKERS)
"""Names of the policies that a store can have."""
DEFAULT = "hit-density"


def make_policy(name: str, capacity: int, random: Random) -> EvictionPolicy:
    """A policy of a store of `capacity` bytes that holds nothing yet.

    Args:
        name: one of `POLICIES`.
        capacity: bytes.
        random: where a policy that draws has its choices from.

    Raises:
        BadRequestError: an unknown name.
    """
    if name not in _MAKERS:
        raise BadRequestError(f"expected an eviction policy among {', '.join(POLICIES)}; got {name!r}")
    return _MAKERS[name](capacity, random)
