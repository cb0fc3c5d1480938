"""`belady`: the object goes that will be used again last. Knows the future, so only the simulator has it."""

from collections.abc import Sequence

from kvquilt_cache_node.eviction.ranked import Ranked
from kvquilt_cache_node.eviction.types import Entry, Key


class Belady(Ranked):
    """MIN (Belady 1966, "A study of replacement algorithms for a virtual-storage computer"). O(log n).

    No policy hits more often if all objects have one size and if a newcomer may be evicted at once, as the simulator
    lets it. Each insertion and each use takes the next place in `accesses`.

    Args:
        accesses: all keys, in the order in which they will be used or inserted.
    """

    def __init__(self, accesses: Sequence[Key]) -> None:
        super().__init__()
        self._next = [0] * len(accesses)
        seen: dict[Key, int] = {}
        for place in range(len(accesses) - 1, -1, -1):
            self._next[place] = seen.get(accesses[place], len(accesses))
            seen[accesses[place]] = place
        self._place = 0

    def priority(self, key: Key, entry: Entry) -> float:  # noqa: ARG002
        """Minus the place of the next access to it."""
        following = self._next[self._place]
        self._place += 1
        return -float(following)
