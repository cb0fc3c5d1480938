"""`random`: any object goes. The baseline that every other policy has to beat."""

from random import Random

from kvquilt_cache_node.eviction.types import Entry, Key


class RandomChoice:
    """Uniformly at random. O(1): the last of a list takes the place of the one that goes.

    Args:
        random: where the choices come from.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._keys: list[Key] = []
        self._places: dict[Key, int] = {}

    def insert(self, key: Key, entry: Entry) -> None:  # noqa: ARG002
        """See `EvictionPolicy.insert`."""
        if key in self._places:
            raise ValueError(f"expected a new key; {key!r} is there")
        self._places[key] = len(self._keys)
        self._keys.append(key)

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        if key not in self._places:
            raise KeyError(key)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        place = self._places.pop(key, None)
        if place is None:
            return
        last = self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._places[last] = place

    def evict(self) -> Key:
        """See `EvictionPolicy.evict`."""
        if not self._keys:
            raise KeyError("expected an object to evict; there is none")
        key = self._random.choice(self._keys)
        self.remove(key)
        return key

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._keys)
