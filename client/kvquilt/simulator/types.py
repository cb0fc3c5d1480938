"""The vocabulary of the simulator."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvquilt_cache_node.eviction import Key


@dataclass(frozen=True, slots=True)
class Access:
    """One object that a request needs: its key, its bytes, and the seconds that computing it takes."""

    key: Key
    size: int
    cost: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order they came in, each with what it needs in the order of its prompt.

    An object has the same size wherever it occurs.
    """

    name: str
    requests: Sequence[Sequence[Access]]

    @property
    def accesses(self) -> int:
        """Objects that were asked for, counted as often as they were."""
        return sum(len(request) for request in self.requests)

    @property
    def unique_bytes(self) -> int:
        """Bytes of a store in which everything fits."""
        return sum({access.key: access.size for request in self.requests for access in request}.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy did on a trace at a capacity.

    Attributes:
        hit_rate: share of accesses that found their object.
        prefix_hit_rate: share of accesses that found their object and, in the same request, all objects before it.
        saved_share: share of the trace's compute seconds that hits saved.
        evictions: objects that went.
    """

    hit_rate: float
    prefix_hit_rate: float
    saved_share: float
    evictions: int
