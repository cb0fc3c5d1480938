"""What a memory tier holds: whole blobs under a byte cap, and which blobs were read of late. No I/O here."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from kvquilt_cache_node.eviction import Entry, EvictionPolicy, Key
from kvquilt_cache_node.types import ByteRange

Ranges = tuple[ByteRange, ...] | None
"""What is asked of a blob; `None`: everything."""

Count = Callable[[str, int], None]
"""Adds to a counter of the node."""


@dataclass(frozen=True, slots=True)
class HotBlob:
    """A blob in memory, and when what it holds was stored (`Stored.at`)."""

    data: bytes
    stored_at: float


class HotBlobs:
    """Blobs in memory. Those that are being loaded count too: room is made before a load begins.

    Args:
        capacity: bytes; never exceeded.
        policy: chooses what goes; holds nothing yet.
        count: told of `memory_bytes`, as they come and go, `memory_bytes_written` and `memory_evicted`.
    """

    def __init__(self, capacity: int, policy: EvictionPolicy, count: Count) -> None:
        self._capacity = capacity
        self._policy = policy
        self._count = count
        self._blobs: dict[Key, HotBlob] = {}
        self._held = 0
        self._reserved = 0

    def get(self, key: bytes) -> HotBlob | None:
        """What is there. Is no use of it."""
        return self._blobs.get(key)

    def use(self, key: bytes) -> None:
        """A blob that is there was used."""
        self._policy.use(key)

    def reserve(self, size: int) -> bool:
        """Make room for a load of `size` bytes; `False`, and nothing goes, if there can be none."""
        if size > self._capacity - self._reserved:
            return False
        while self._held + self._reserved + size > self._capacity:
            self._take_out(self._policy.evict())
            self._count("memory_evicted", 1)
        self._reserved += size
        return True

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        self._reserved -= size

    def keep(self, key: bytes, blob: HotBlob) -> None:
        """Hold a blob that is not there, in the room that was reserved for it. It counts as read before."""
        size = len(blob.data)
        self._reserved -= size
        self._policy.insert(key, Entry(max(size, 1), uses=1))
        self._blobs[key] = blob
        self._held += size
        self._count("memory_bytes", size)
        self._count("memory_bytes_written", size)

    def drop(self, key: Key) -> None:
        """Hold a blob no more, if it is there."""
        if key in self._blobs:
            self._policy.remove(key)
            self._take_out(key)

    def clear(self) -> None:
        """Hold nothing."""
        for key in list(self._blobs):
            self.drop(key)

    def _take_out(self, key: Key) -> None:
        size = len(self._blobs.pop(key).data)
        self._held -= size
        self._count("memory_bytes", -size)


class Recent:
    """Which blobs were read of late, and what was asked of each of them first.

    One use of a blob may be several reads: of its beginning, then of parts. So a blob is used again when what was asked
    of it first is asked again.

    Args:
        window: number of blobs that are remembered.
        whole_is_use: a read of everything begins another use too: it is how a memory tier loads.
    """

    def __init__(self, window: int, *, whole_is_use: bool = False) -> None:
        self._window = window
        self._whole_is_use = whole_is_use
        self._first: OrderedDict[bytes, Ranges] = OrderedDict()

    def again(self, key: bytes, ranges: Ranges) -> bool:
        """Whether a read would begin another use of a blob that was used within the window."""
        return key in self._first and (self._first[key] == ranges or (self._whole_is_use and ranges is None))

    def seen(self, key: bytes, ranges: Ranges) -> bool:
        """Take note of a read; tell whether it begins another use."""
        again = self.again(key, ranges)
        self._first.setdefault(key, ranges)
        self._first.move_to_end(key)
        if len(self._first) > self._window:
            self._first.popitem(last=False)
        return again
