"""Containers that are kept in memory as they come from a node, so that they can be made finer later."""

import asyncio
from collections.abc import AsyncIterator, Callable

from kvquilt_codec.container import HeldContainer
from kvquilt_proto.v1 import cache_node_pb2

Pieces = AsyncIterator[cache_node_pb2.GetChunkHeader | bytes]
"""What `NodeClient.get` gives."""
Received = Callable[[int], None] | None
"""Told of the bytes that come."""


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
        if isinstance(piece, bytes):
            came.append(piece)
            if received is not None:
                received(len(piece))
    return b"".join(came)
