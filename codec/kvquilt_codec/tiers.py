"""Where the bytes of a chunk that was read were: what nodes say of each read, and routers of each chunk."""

from enum import Enum


class Tier(Enum):
    """A place that bytes are read from; the faster ones first."""

    UNKNOWN = "unknown"
    """Nobody said."""
    ROUTER = "router"
    """The router had kept them (`router.held_bytes`): no node was asked. Nodes do not say this."""
    MEMORY = "memory"
    """The node's memory in front of its store."""
    HOT = "hot"
    """Its hot tier."""
    QUEUE = "queue"
    """Its write queue: the store has not got them yet."""
    STORE = "store"
    """The store itself."""


_ORDER = {tier: place for place, tier in enumerate(Tier)}


def slower(one: Tier, other: Tier) -> Tier:
    """Of two tiers the slower one: where a chunk came from that was read in parts."""
    return max(one, other, key=_ORDER.__getitem__)
