"""What a store allows objects: how long they stay, what is pinned, how long readers hold what they read."""

from dataclasses import dataclass, field

from kvquilt_cache_node.index_types import Lease
from kvquilt_codec.lifetime import LifetimePolicy

_LEASED_FRACTION = 4
"""Of the capacity, a quarter can be under leases of readers: an object of the rest can always be stored."""


@dataclass(frozen=True, slots=True)
class StayRules:
    """See the module.

    Attributes:
        lifetimes: default and cap of times to live.
        pinned_fraction: most of the capacity that is pinned.
        read_lease: seconds that a reader's lease lasts; 0: none.
    """

    lifetimes: LifetimePolicy = field(default_factory=LifetimePolicy)
    pinned_fraction: float = 0.5
    read_lease: float = 10.0

    def most_pinned(self, capacity: int) -> int:
        """Bytes."""
        return int(self.pinned_fraction * capacity)

    def lease(self, capacity: int) -> Lease | None:
        """What a reader gets."""
        return Lease(self.read_lease, capacity // _LEASED_FRACTION) if self.read_lease else None
