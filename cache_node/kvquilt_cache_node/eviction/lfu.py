"""`lfu`: the object goes that was used least often."""

from kvquilt_cache_node.eviction.ranked import Ranked
from kvquilt_cache_node.eviction.types import Entry, Key


class Lfu(Ranked):
    """Least frequently used; of several the one used longest ago. Counts end with the object. O(log n)."""

    def priority(self, key: Key, entry: Entry) -> float:  # noqa: ARG002
        """How often it was used."""
        return float(entry.uses)
