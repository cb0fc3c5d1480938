"""`arc`: objects that were used once and objects that were used again share the room, by which of both is missed."""

from kvquilt_cache_node.eviction.sized import SizedQueue
from kvquilt_cache_node.eviction.types import Entry, Key


def _size(size: int) -> int:
    return size


class Arc:
    """Adaptive Replacement Cache (Megiddo and Modha, FAST 2003, figure 4), in bytes in place of pages. O(1).

    T1 holds what was used once, T2 what was used again; B1 and B2 remember what was evicted from them. `p` is the share
    of T1: it grows when something comes back that B1 remembers, and shrinks when B2 does.

    Differs from the paper: `p` changes when an object comes in, after room was made for it, since a store makes room
    before it knows that the object can be written; an object that was used before counts as used again.

    Args:
        capacity: bytes of the store.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._target = 0.0
        self._t1, self._t2 = SizedQueue(_size), SizedQueue(_size)
        self._b1, self._b2 = SizedQueue(_size), SizedQueue(_size)

    def insert(self, key: Key, entry: Entry) -> None:
        """See `EvictionPolicy.insert`."""
        if key in self:
            raise ValueError(f"expected a new key; {key!r} is there")
        b1, b2 = self._b1.nbytes, self._b2.nbytes
        if key in self._b1:
            self._target = min(self._capacity, self._target + max(1.0, b2 / b1) * self._b1.pop(key))
            self._t2.append(key, entry.size)
        elif key in self._b2:
            self._target = max(0.0, self._target - max(1.0, b1 / b2) * self._b2.pop(key))
            self._t2.append(key, entry.size)
        else:
            (self._t2 if entry.uses else self._t1).append(key, entry.size)
        self._b1.shrink(max(0, self._capacity - self._t1.nbytes))
        self._b2.shrink(max(0, 2 * self._capacity - self._t1.nbytes - self._t2.nbytes - self._b1.nbytes))

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        queue = self._t1 if key in self._t1 else self._t2
        self._t2.append(key, queue.pop(key))

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        for queue in (self._t1, self._t2):
            if key in queue:
                queue.pop(key)

    def evict(self) -> Key:
        """See `EvictionPolicy.evict`; the paper's REPLACE."""
        once = len(self._t1) > 0 and (self._t1.nbytes > self._target or not self._t2)
        queue, ghosts = (self._t1, self._b1) if once else (self._t2, self._b2)
        key, size = queue.pop_oldest()
        ghosts.append(key, size)
        return key

    def __contains__(self, key: object) -> bool:
        return key in self._t1 or key in self._t2

    def __len__(self) -> int:
        return len(self._t1) + len(self._t2)
