"""Which objects are being read, as one node's index in memory knows it."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from kvquilt_cache_node.index_types import Lease

MOST_READS = 1024
"""Objects that may be under leases at once; `lua/common.lua` has the same."""


@dataclass(slots=True)
class _Read:
    size: int
    readers: int
    until: float


class Readers:
    """Leases of readers, by key. They run out by themselves. Safe from any thread, and never waits for a disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[bytes, _Read] = {}

    def begin(self, key: bytes, size: int, lease: Lease, now: float) -> None:
        """Somebody reads an object. Beyond the bounds nothing happens: the object may go while it is read."""
        with self._lock:
            self._let_go(now)
            read = self._reads.get(key)
            if read is None:
                held = sum(other.size for other in self._reads.values())
                if len(self._reads) >= MOST_READS or held + size > lease.most_bytes:
                    return
                read = self._reads[key] = _Read(size, 0, 0.0)
            read.readers += 1
            read.until = max(read.until, now + lease.seconds)

    def end(self, keys: Iterable[bytes]) -> None:
        """One reader of each of these has what it read."""
        with self._lock:
            for key in keys:
                read = self._reads.get(key)
                if read is not None:
                    read.readers -= 1
                    if read.readers <= 0:
                        del self._reads[key]

    def drop(self, key: bytes) -> None:
        """The object is gone."""
        with self._lock:
            self._reads.pop(key, None)

    def now(self, now: float) -> frozenset[bytes]:
        """What is being read."""
        with self._lock:
            self._let_go(now)
            return frozenset(self._reads)

    def _let_go(self, now: float) -> None:
        for key in [key for key, read in self._reads.items() if read.until <= now]:
            del self._reads[key]
