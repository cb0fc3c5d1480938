"""Blobs in memory: gone with the process."""

from collections.abc import Sequence

from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.ranges import check_ranges
from kvquilt_cache_node.store.whole import InOnePiece
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.identity import check_digest


class MemoryBlobs(InOnePiece):
    """See `Blobs`."""

    name = "memory"
    durable = False

    def __init__(self) -> None:
        self._blobs: dict[bytes, bytes] = {}
        self._open = Open("memory")

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        self._open.check()
        self._blobs[check_digest(key, "key")] = bytes(data)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        self._open.check()
        data = self._blobs.get(check_digest(key, "key"))
        if data is None:
            raise NotFoundError(f"expected object {key.hex()[:16]}... in memory; it is not there")
        if ranges is None:
            return [data]
        check_ranges(ranges, len(data))
        return [data[begin:end] for begin, end in ranges]

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        self._open.check()
        self._blobs.pop(check_digest(key, "key"), None)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        self._open.check()
        return {key: len(data) for key, data in self._blobs.items()}

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._open.close()
        self._blobs.clear()
