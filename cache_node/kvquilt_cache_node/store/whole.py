"""Blobs that are read as a whole in one go."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence

from kvquilt_cache_node.types import ByteRange, Piece


class InOnePiece(ABC):
    """`Blobs.pieces` of a medium from which a blob comes no sooner in pieces."""

    @abstractmethod
    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`."""
        (data,) = await self.read(key)
        yield data
