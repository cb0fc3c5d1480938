"""A queue of keys that knows its bytes: what the policies with several queues are made of."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from kvquilt_cache_node.eviction.types import Key

Item = TypeVar("Item")


class SizedQueue(Generic[Item]):
    """Keys in order with an item each, the oldest first. O(1).

    Args:
        size_of: bytes of an item.
    """

    def __init__(self, size_of: Callable[[Item], int]) -> None:
        self._items: OrderedDict[Key, Item] = OrderedDict()
        self._size_of = size_of
        self.nbytes = 0

    def append(self, key: Key, item: Item) -> None:
        """Put a key that is not there at the end."""
        self._items[key] = item
        self.nbytes += self._size_of(item)

    def oldest(self) -> tuple[Key, Item]:
        """The first of the queue, which stays there."""
        key = next(iter(self._items))
        return key, self._items[key]

    def pop_oldest(self) -> tuple[Key, Item]:
        """Take the first away; `KeyError` if there is none."""
        key, item = self._items.popitem(last=False)
        self.nbytes -= self._size_of(item)
        return key, item

    def pop(self, key: Key) -> Item:
        """Take a key away; `KeyError` if it is not there."""
        item = self._items.pop(key)
        self.nbytes -= self._size_of(item)
        return item

    def shrink(self, nbytes: int, count: int | None = None) -> list[Item]:
        """Take the oldest away until at most `nbytes` bytes and `count` keys are left; return their items."""
        gone = []
        while self._items and (self.nbytes > nbytes or (count is not None and len(self) > count)):
            gone.append(self.pop_oldest()[1])
        return gone

    def items(self) -> list[Item]:
        """All items, the oldest first."""
        return list(self._items.values())

    def __getitem__(self, key: Key) -> Item:
        return self._items[key]

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)
