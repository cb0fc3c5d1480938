"""A medium whose operations are spans of a trace."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from kvquilt_cache_node.types import Blobs, ByteRange, Piece
from kvquilt_rpc import spans


class ObservedBlobs:
    """See `Blobs`: those of one medium, told from others by the name of its tier.

    Args:
        blobs: of the medium; closed with this.
        tier: what the medium is to the store: "store", or "hot".
    """

    def __init__(self, blobs: Blobs, tier: str) -> None:
        self._blobs = blobs
        self._tier = tier

    @property
    def name(self) -> str:
        """See `Blobs.name`."""
        return self._blobs.name

    @property
    def durable(self) -> bool:
        """See `Blobs.durable`."""
        return self._blobs.durable

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        with self._operation("write", bytes=len(data)):
            await self._blobs.write(key, data)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        with self._operation("read") as operation:
            found = await self._blobs.read(key, ranges)
            operation.set(bytes=sum(map(len, found)))
            return found

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`. The span ends when nobody takes pieces any more."""
        operation = self._operation("read")
        nbytes = 0
        try:
            async with aclosing(self._blobs.pieces(key)) as found:
                async for piece in found:
                    nbytes += len(piece)
                    yield piece
        except BaseException as error:
            operation.set(bytes=nbytes)
            operation.end(spans.reason_of(error))
            raise
        operation.set(bytes=nbytes)
        operation.end()

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        with self._operation("delete"):
            await self._blobs.delete(key)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        with self._operation("sizes") as operation:
            found = await self._blobs.sizes()
            operation.set(objects=len(found))
            return found

    async def close(self) -> None:
        """See `Blobs.close`."""
        await self._blobs.close()

    def _operation(self, name: str, **attributes: spans.Value) -> spans.Span:
        return spans.span(f"kvquilt.store.{name}", tier=self._tier, medium=self.name, **attributes)
