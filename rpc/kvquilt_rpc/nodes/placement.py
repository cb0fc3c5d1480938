"""Which cache node a chunk belongs to: weighted rendezvous hashing with bounded loads. Pure computation.

Every router that has the same members agrees, in any process and on any machine, and in whatever order it lists them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import xxhash

_MANTISSA = 53
"""Bits of a hash that a double holds exactly."""


@dataclass(frozen=True, slots=True)
class Site:
    """A node as far as placement knows it.

    Attributes:
        name: its address; what is hashed.
        weight: share of the keys that it gets, relative to the others'; above 0.
        host: the DNS name that stood for the address, if one did.
    """

    name: str
    weight: float = 1.0
    host: str = field(default="", compare=False)


def ranked(sites: Collection[Site], key: bytes) -> list[Site]:
    """Sites in the order in which they are to hold a key.

    Each site's score depends on itself and the key alone, so a site that comes or goes moves its own share of the keys
    and no other. Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998;
    the weighted score -w / ln(u): Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005.

    Args:
        sites: in any order.
        key: any bytes.
    """
    return sorted(sites, key=lambda site: (-_score(site, key), site.name))


def replicas(sites: Collection[Site], key: bytes, count: int) -> list[Site]:
    """The first `count` sites for a key, or all of them if there are fewer."""
    return ranked(sites, key)[:count]


def bounded(order: Sequence[Site], loads: Mapping[str, int], factor: float) -> list[Site]:
    """The order for a key in which sites over their bound come last.

    A site takes no more than `factor` times its share of the load, the new request included; what is beyond that goes
    to the next site. Consistent hashing with bounded loads: Mirrokni, Thorup and Zadimoghaddam, 2016.

    Args:
        order: as `ranked` gave it.
        loads: requests at each site, by name; 0 where there is none.
        factor: above 1.
    """
    total = sum(loads.get(site.name, 0) for site in order) + 1
    weights = sum(site.weight for site in order)
    over = [loads.get(site.name, 0) + 1 > math.ceil(factor * total * site.weight / weights) for site in order]
    free = [site for site, full in zip(order, over, strict=True) if not full]
    return [*free, *(site for site, full in zip(order, over, strict=True) if full)]


def _score(site: Site, key: bytes) -> float:
    digest = xxhash.xxh3_64_intdigest(site.name.encode() + b"\0" + key)
    uniform = ((digest >> (64 - _MANTISSA)) + 0.5) / (1 << _MANTISSA)
    return -site.weight / math.log(uniform)
