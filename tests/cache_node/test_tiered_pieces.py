"""Blobs behind memory, asked for in pieces: as they come from below at first, from memory after a second use."""

import pytest

from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.types import COUNTERS
from kvquilt_codec.errors import NotFoundError
from kvquilt_rpc.counters import Counters
from tests.cache_node.tiers import Watched, tier
from tests.contracts.store_objects import data_of, key_of

ONE = key_of(1)
WHOLE = data_of(1, 100)


async def test_pieces_come_from_below_once_and_from_memory_after_a_second_use() -> None:
    lower, counters = Watched(MemoryBlobs()), Counters(COUNTERS)
    blobs = tier(lower, 1000, counters=counters)
    await blobs.write(ONE, WHOLE)
    for streamed, read, hits in ((1, 0, 0), (1, 1, 0), (1, 1, 1)):
        assert b"".join([piece async for piece in blobs.pieces(ONE)]) == WHOLE
        assert (len(lower.streamed), len(lower.reads)) == (streamed, read)
        assert counters.snapshot()["memory_hits"] == hits
    await lower.delete(ONE)  # as another node does
    with pytest.raises(NotFoundError):
        _ = [piece async for piece in blobs.pieces(ONE)]
    await blobs.close()
