"""What policies that give each object a number share: a heap, the lowest number on top."""

import heapq
from abc import ABC, abstractmethod

from kvquilt_cache_node.eviction.types import Entry, Key


class Ranked(ABC):
    """Evicts the object of the lowest priority, of several with the same the one used longest ago. O(log n).

    A changed priority is a new item in the heap; old items are skipped when they come up, and swept out when they are
    more than three in four.
    """

    def __init__(self) -> None:
        self._live: dict[Key, tuple[float, int, Entry]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._turn = 0

    @abstractmethod
    def priority(self, key: Key, entry: Entry) -> float:
        """Of an object that has just been used, for which `entry.uses` counts that use; or that came in."""

    def evicted(self, priority: float) -> None:  # noqa: B027  not every policy learns from it
        """An object of this priority was evicted."""

    def insert(self, key: Key, entry: Entry) -> None:
        """See `EvictionPolicy.insert`."""
        if key in self._live:
            raise ValueError(f"expected a new key; {key!r} is there")
        self._push(key, entry)

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        entry = self._live[key][2]
        self._push(key, Entry(entry.size, entry.cost, entry.uses + 1))

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        self._live.pop(key, None)

    def evict(self) -> Key:
        """See `EvictionPolicy.evict`."""
        if not self._live:
            raise KeyError("expected an object to evict; there is none")
        while True:
            priority, turn, key = heapq.heappop(self._heap)
            if key in self._live and self._live[key][1] == turn:
                del self._live[key]
                self.evicted(priority)
                return key

    def __contains__(self, key: object) -> bool:
        return key in self._live

    def __len__(self) -> int:
        return len(self._live)

    def _push(self, key: Key, entry: Entry) -> None:
        self._turn += 1
        priority = self.priority(key, entry)
        self._live[key] = (priority, self._turn, entry)
        heapq.heappush(self._heap, (priority, self._turn, key))
        if len(self._heap) > 4 * len(self._live) + 64:
            self._heap = [(live[0], live[1], other) for other, live in self._live.items()]
            heapq.heapify(self._heap)
