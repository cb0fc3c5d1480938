"""`gdsf`: the object goes that saves least per byte, unless it was used lately."""

from kvquilt_cache_node.eviction.ranked import Ranked
from kvquilt_cache_node.eviction.types import Entry, Key

_FREE = 1e-6
"""Seconds that a use of an object without a measured cost is taken to save: such objects are told apart by use."""


class Gdsf(Ranked):
    """Greedy Dual Size Frequency: priority = clock + frequency x cost / size. O(log n).

    The clock is the priority of what was evicted last: Cherkasova 1998, "Improving WWW Proxies Performance with
    Greedy-Dual-Size-Frequency Caching Policy", section 3. With measured compute as the cost it is RAGCache's PGDSF
    (arXiv 2404.12457, equation 1), but it does not look at which chunk another one needs as its context: RAGCache
    evicts leaves of its tree only.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clock = 0.0

    def priority(self, key: Key, entry: Entry) -> float:  # noqa: ARG002
        """Clock + frequency x cost / size; coming in counts as the first use."""
        return self._clock + (entry.uses + 1) * max(entry.cost, _FREE) / entry.size

    def evicted(self, priority: float) -> None:
        """Move the clock on."""
        self._clock = priority
