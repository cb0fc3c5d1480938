"""The vocabulary of objects that are read together."""

from collections.abc import AsyncIterator
from typing import Protocol

from kvquilt_rpc.node_batches import Piece
from kvquilt_rpc.nodes.refs import ObjectRef


class ObjectPieces(Protocol):
    """An object: its header, then its bytes. Raises what happened to it, and only to it."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Itself."""

    async def __anext__(self) -> Piece:
        """What comes next."""

    async def aclose(self) -> None:
        """No more of it is wanted. Whoever stops earlier must say so: what waits to be read holds up the others."""


class ObjectBatch(Protocol):
    """Objects that come together."""

    def pieces(self, ref: ObjectRef, quality_layers: int = 0) -> ObjectPieces:
        """One of them, as of `CacheNodes.get`; as often as it was wanted.

        Another node is tried only before the first piece.
        """
