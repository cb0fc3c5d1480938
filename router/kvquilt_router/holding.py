"""Encoded chunks that a router keeps, so that a finer level costs only the missing quality layers."""

from collections import OrderedDict
from collections.abc import Iterable

from kvquilt_codec.container import HeldContainer


class HeldChunks:
    """The most recently used of what was fetched, by object key, up to so many bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self._held: OrderedDict[bytes, HeldContainer] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """What is held now."""
        return self._bytes

    def get(self, key: bytes) -> HeldContainer | None:
        """What is held of an object; a use of it."""
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
        return held

    def put(self, key: bytes, held: HeldContainer) -> None:
        """Keep this of an object, if it fits at all."""
        self.drop(key)
        if held.nbytes > self.capacity:
            return
        self._held[key] = held
        self._bytes += held.nbytes
        while self._bytes > self.capacity:
            self.drop(next(iter(self._held)))

    def drop(self, key: bytes) -> None:
        """Keep nothing of an object."""
        if (held := self._held.pop(key, None)) is not None:
            self._bytes -= held.nbytes

    def drop_all(self, keys: Iterable[bytes]) -> None:
        """Keep nothing of these objects."""
        for key in keys:
            self.drop(key)
