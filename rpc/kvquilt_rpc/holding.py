"""Containers that are kept in memory as they come from a node, so that they can be made finer later."""

import asyncio
from collections.abc import AsyncIterator, Callable

from kvquilt_codec.container import HeldContainer
from kvquilt_rpc.node_batches import Piece

Pieces = AsyncIterator[Piece]
"""What `NodeClient.get` gives."""
Received = Callable[[Piece], None] | None
"""Told of what comes: the header, then the bytes."""


async def held_of(pieces: Pieces, model_fingerprint: str, quality_layers: int, received: Received) -> HeldContainer:
    """A container out of a stream with its first quality layers; 0: all of them."""
    data = await _joined(pieces, received)
    return await asyncio.to_thread(HeldContainer.received, data, model_fingerprint, None, quality_layers or None)


async def extended(held: HeldContainer, pieces: Pieces, quality_layers: int, received: Received) -> HeldContainer:
    """The same with more quality layers, out of a stream that leaves out what is held."""
    return await asyncio.to_thread(held.extended, await _joined(pieces, received), quality_layers or None)


async def _joined(pieces: Pieces, received: Received) -> bytes:
    came: list[bytes] = []
    async for piece in pieces:
        if received is not None:
            received(piece)
        if isinstance(piece, bytes):
            came.append(piece)
    return b"".join(came)
