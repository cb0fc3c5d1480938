"""A medium whose operations are measured, and spans of a trace."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.store.answering import answered
from kvquilt_cache_node.types import Blobs, ByteRange, Piece
from kvquilt_codec.tiers import Tier
from kvquilt_rpc import spans


class ObservedBlobs:
    """See `Blobs`: those of one medium, told from others by the name of its tier.

    Args:
        blobs: of the medium; closed with this.
        tier: what the medium is to the store: the store itself, or the hot tier.
        meter: told of every operation.
    """

    def __init__(self, blobs: Blobs, tier: Tier, meter: NodeMeter) -> None:
        self._meter = meter
        self._blobs = blobs
        self._answers = tier
        self._tier = tier.value

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
        with self._operation("write", bytes=len(data)), self._meter.operation(self._tier, "write"):
            await self._blobs.write(key, data)
        self._meter.written(self._tier, len(data))

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        with self._operation("read") as span, self._meter.operation(self._tier, "read"):
            found = await self._blobs.read(key, ranges)
            nbytes = sum(map(len, found))
            span.set(bytes=nbytes)
        self._meter.read(self._tier, nbytes)
        answered(self._answers)
        return found

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`. The span ends when nobody takes pieces any more."""
        span = self._operation("read")
        nbytes = 0
        try:
            with self._meter.operation(self._tier, "read") as operation:
                async with aclosing(self._blobs.pieces(key)) as found:
                    async for piece in found:
                        nbytes += len(piece)
                        answered(self._answers)
                        with operation.given():
                            yield piece
        except BaseException as error:
            span.set(bytes=nbytes)
            span.end(spans.reason_of(error))
            raise
        finally:
            self._meter.read(self._tier, nbytes)
        span.set(bytes=nbytes)
        span.end()

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        with self._operation("delete"), self._meter.operation(self._tier, "delete"):
            await self._blobs.delete(key)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        with self._operation("sizes") as span, self._meter.operation(self._tier, "list"):
            found = await self._blobs.sizes()
            span.set(objects=len(found))
            return found

    async def close(self) -> None:
        """See `Blobs.close`."""
        await self._blobs.close()

    def _operation(self, name: str, **attributes: spans.Value) -> spans.Span:
        return spans.span(f"kvquilt.store.{name}", tier=self._tier, medium=self.name, **attributes)
