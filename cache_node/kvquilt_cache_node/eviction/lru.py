"""`lru`: the object goes whose last use is the longest ago."""

from collections import OrderedDict

from kvquilt_cache_node.eviction.types import Entry, Key


class Lru:
    """Least recently used. O(1)."""

    def __init__(self) -> None:
        self._order: OrderedDict[Key, None] = OrderedDict()

    def insert(self, key: Key, entry: Entry) -> None:  # noqa: ARG002
        """See `EvictionPolicy.insert`."""
        if key in self._order:
            raise ValueError(f"expected a new key; {key!r} is there")
        self._order[key] = None

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        self._order.move_to_end(key)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        self._order.pop(key, None)

    def evict(self) -> Key:
        """See `EvictionPolicy.evict`."""
        return self._order.popitem(last=False)[0]

    def __contains__(self, key: object) -> bool:
        return key in self._order

    def __len__(self) -> int:
        return len(self._order)
