"""Blobs in memory: gone with the process."""

from collections.abc import Sequence

from kvquilt_cache_node.store.ranges import check_ranges
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import NotFoundError


class MemoryBlobs:
    """See `Blobs`."""

    name = "memory"
    durable = False

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        self._blobs[key] = bytes(data)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        data = self._blobs.get(key)
        if data is None:
            raise NotFoundError(f"expected object {key.hex()[:16]}... in memory; it is not there")
        if ranges is None:
            return [data]
        check_ranges(ranges, len(data))
        return [data[begin:end] for begin, end in ranges]

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        self._blobs.pop(key, None)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        return {key: len(data) for key, data in self._blobs.items()}

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._blobs.clear()
