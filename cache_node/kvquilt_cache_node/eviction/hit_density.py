"""`hit-density`, the default: the object goes whose byte is least likely to be used again soon, as uses so far show."""

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain

import numpy as np

from kvquilt_cache_node.eviction.reuse import AgeBins, Reuse
from kvquilt_cache_node.eviction.sized import SizedQueue
from kvquilt_cache_node.eviction.types import Entry, Key

_GHOSTS = 8
"""Bytes of objects that are remembered after they went, in capacities."""
_MAX_GHOSTS = 1 << 18
_LEARN_EVERY = 500
_LEARN_SHARE = 16
_FREE = 1e-6

Worth = Callable[[Entry], float]


def by_hits(entry: Entry) -> float:
    """A use is worth the same whatever it saves."""
    return 1 / entry.size


def by_savings(entry: Entry) -> float:
    """A use is worth the seconds it saves."""
    return max(entry.cost, _FREE) / entry.size


class _Record:
    """An object, or the memory of one: when it was last used (in bytes passed), and its kind."""

    __slots__ = ("kind", "size", "used", "worth")

    def __init__(self, used: int, size: int, worth: float, kind: "_Kind") -> None:
        self.used = used
        self.size = size
        self.worth = worth
        self.kind = kind


class _Kind:
    """Objects that are alike, in the order of their last use, and what was learned of them."""

    def __init__(self, number: int, reuse: Reuse) -> None:
        self.number = number
        self.reuse = reuse
        self.queue: OrderedDict[Key, _Record] = OrderedDict()


def _size(record: _Record) -> int:
    return record.size


class HitDensity:
    """Evicts the object with the least expected worth per byte and time, out of the oldest of each kind.

    Objects are of one kind if all of them, or none, were used again, and if their worth per byte is within a factor
    of 4. Within a kind the oldest goes first. How likely an object of some kind and age is to be used again is learned
    (`Reuse`), also from objects that went: their keys are remembered until 8 times the capacity has gone. The idea to
    rank by learned hit density is that of LHD (Beckmann, Chen and Cidon, NSDI 2018, section 3); queues by kind in place
    of a sample, remembered objects, and Gittins' index in place of the mean over all ages are ours. O(kinds), of which
    there are two for objects of one size; every n / 16 calls, O(n) to learn.

    Args:
        capacity: bytes of the store.
        worth: what a use is worth per byte: by default each use the same.
    """

    def __init__(self, capacity: int, worth: Worth = by_hits) -> None:
        self._capacity = capacity
        self._worth = worth
        self._bins = AgeBins(capacity)
        self._kinds: dict[tuple[bool, int], _Kind] = {}
        self._live: dict[Key, _Record] = {}
        self._ghosts: SizedQueue[_Record] = SizedQueue(_size)
        self._passed = 0
        self._calls = 0

    def insert(self, key: Key, entry: Entry) -> None:
        """See `EvictionPolicy.insert`."""
        if key in self._live:
            raise ValueError(f"expected a new key; {key!r} is there")
        self._passed += entry.size
        again = entry.uses > 0
        if key in self._ghosts:
            ghost = self._ghosts.pop(key)
            ghost.kind.reuse.used(self._passed - ghost.used)
            again = True
        worth = self._worth(entry)
        kind = self._kind(again, math.floor(math.log2(worth) / 2))
        self._live[key] = kind.queue[key] = _Record(self._passed, entry.size, worth, kind)
        self._learn_in_time()

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        record = self._live[key]
        self._passed += record.size
        record.kind.reuse.used(self._passed - record.used)
        del record.kind.queue[key]
        record.used = self._passed
        record.kind = self._kind(True, math.floor(math.log2(record.worth) / 2))
        record.kind.queue[key] = record
        self._learn_in_time()

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        record = self._live.pop(key, None)
        if record is not None:
            del record.kind.queue[key]
            record.kind.reuse.lost(self._passed - record.used)

    def evict(self) -> Key:
        """See `EvictionPolicy.evict`."""
        oldest = [next(iter(kind.queue.items())) for kind in self._kinds.values() if kind.queue]
        if not oldest:
            raise KeyError("expected an object to evict; there is none")
        key, record = min(oldest, key=lambda item: (self._density(item[1]), item[1].used))
        del self._live[key], record.kind.queue[key]
        self._ghosts.append(key, record)
        for ghost in self._ghosts.shrink(_GHOSTS * self._capacity, _MAX_GHOSTS):
            ghost.kind.reuse.lost(self._passed - ghost.used)
        return key

    def __contains__(self, key: object) -> bool:
        return key in self._live

    def __len__(self) -> int:
        return len(self._live)

    def _kind(self, again: bool, level: int) -> _Kind:
        found = self._kinds.get((again, level))
        if found is None:
            found = self._kinds[again, level] = _Kind(len(self._kinds), Reuse(self._bins, 2.0 if again else 1.0))
        return found

    def _density(self, record: _Record) -> float:
        return record.kind.reuse.index[self._bins.bin_of(self._passed - record.used)] * record.worth

    def _learn_in_time(self) -> None:
        self._calls += 1
        if self._calls >= max(_LEARN_EVERY, len(self._live) // _LEARN_SHARE):
            self._calls = 0
            self._learn()

    def _learn(self) -> None:
        records = list(chain(self._live.values(), self._ghosts.items()))
        ages = self._passed - np.fromiter((record.used for record in records), np.float64, len(records))
        numbers = np.fromiter((record.kind.number for record in records), np.int64, len(records))
        living = {kind.number: ages[numbers == kind.number] for kind in self._kinds.values()}
        for kind in self._kinds.values():
            kind.reuse.fade()
        totals = [kind.reuse.totals(living[kind.number]) for kind in self._kinds.values()]
        uses, watched = (np.sum(part, axis=0) for part in zip(*totals, strict=True))
        for kind in self._kinds.values():
            kind.reuse.learn(living[kind.number], uses, watched)
