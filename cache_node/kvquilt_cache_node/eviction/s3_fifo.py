"""`s3-fifo`: a small queue lets go of what is not used again soon; a main queue gives what was used another round."""

from kvquilt_cache_node.eviction.sized import SizedQueue
from kvquilt_cache_node.eviction.types import Entry, Key

_SMALL = 0.1
_MOST_USES = 3


class _Counted:
    """Size in bytes, and uses since the object came into its queue, at most 3."""

    __slots__ = ("size", "uses")

    def __init__(self, size: int, uses: int) -> None:
        self.size = size
        self.uses = uses


def _size(item: _Counted) -> int:
    return item.size


class S3Fifo:
    """S3-FIFO (Yang et al., SOSP 2023, "FIFO queues are all you need for cache eviction", algorithm 1). O(1).

    The small queue has a tenth of the bytes, and a ghost queue remembers what it evicted, as many bytes as the main
    queue has. An object moves from small to main if it was used more than once there.

    Args:
        capacity: bytes of the store.
    """

    def __init__(self, capacity: int) -> None:
        self._small_bytes = int(capacity * _SMALL)
        self._main_bytes = capacity - self._small_bytes
        self._small, self._main, self._ghosts = SizedQueue(_size), SizedQueue(_size), SizedQueue(_size)

    def insert(self, key: Key, entry: Entry) -> None:
        """See `EvictionPolicy.insert`."""
        if key in self:
            raise ValueError(f"expected a new key; {key!r} is there")
        known = key in self._ghosts
        if known:
            self._ghosts.pop(key)
        (self._main if known else self._small).append(key, _Counted(entry.size, min(entry.uses, _MOST_USES)))

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        item = (self._small if key in self._small else self._main)[key]
        item.uses = min(item.uses + 1, _MOST_USES)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        for queue in (self._small, self._main):
            if key in queue:
                queue.pop(key)

    def evict(self) -> Key:
        """See `EvictionPolicy.evict`."""
        while True:
            if self._small and (self._small.nbytes >= self._small_bytes or not self._main):
                key, item = self._small.pop_oldest()
                if item.uses <= 1:
                    self._ghosts.append(key, item)
                    self._ghosts.shrink(self._main_bytes)
                    return key
                item.uses = 0
            else:
                key, item = self._main.pop_oldest()
                if item.uses == 0:
                    return key
                item.uses -= 1
            self._main.append(key, item)

    def __contains__(self, key: object) -> bool:
        return key in self._small or key in self._main

    def __len__(self) -> int:
        return len(self._small) + len(self._main)
