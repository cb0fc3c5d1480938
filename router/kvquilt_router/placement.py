"""Fetched chunks, cut to the runs of a prompt that they are used for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import LayerKV, SideInfo, TokenIds
from kvquilt_router.assembly import PlacedChunk
from kvquilt_router.selection import ReusedChunk
from kvquilt_router.types import ChunkOutcome, Key, key_of


class FetchedChunk(Protocol):
    """A chunk that has come, or whose KV is on its way."""

    @property
    def token_ids(self) -> TokenIds:
        """Its tokens."""

    @property
    def side(self) -> SideInfo | None:
        """Its side information, if it has any."""

    @property
    def rotated_from(self) -> int | None:
        """As of `KVChunk`."""

    def layer(self, index: int) -> LayerKV:
        """Keys and values of one layer."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkPart:
    """The KV of some of a chunk's tokens; a `ChunkKV`.

    Attributes:
        chunk: the whole chunk.
        begin: first token of the part.
        tokens: length of the part.
    """

    chunk: FetchedChunk
    begin: int
    tokens: int

    @property
    def rotated_from(self) -> int | None:
        """See `ChunkKV.rotated_from`."""
        whole = self.chunk.rotated_from
        return None if whole is None else whole + self.begin

    def layer(self, index: int) -> LayerKV:
        """See `ChunkKV.layer`."""
        kv, cut = self.chunk.layer(index), slice(self.begin, self.begin + self.tokens)
        return LayerKV(kv.keys[cut], kv.values[cut])


def check_fits(outcome: ChunkOutcome, chunk: FetchedChunk) -> None:
    """Compare a chunk's tokens with the prompt's, not only hashes, and the place of an exact variant's keys.

    Raises:
        IntegrityError: it is another chunk, or its keys belong elsewhere.
    """
    ref, begin = outcome.ref, outcome.source_begin
    if not np.array_equal(chunk.token_ids[begin : begin + len(ref.token_ids)], ref.token_ids):
        raise IntegrityError("expected the KV of the chunk's tokens; the object holds other tokens")
    exact = outcome.found is not None and outcome.found.context == "exact"
    if exact and chunk.rotated_from not in (None, ref.begin - begin):
        raise IntegrityError(
            f"expected keys for position {ref.begin - begin}; the object's are for {chunk.rotated_from}"
        )


def fits(outcome: ChunkOutcome, chunk: FetchedChunk) -> bool:
    """Whether `check_fits` finds nothing."""
    try:
        check_fits(outcome, chunk)
    except IntegrityError:
        return False
    return True


def placed(outcomes: Sequence[ChunkOutcome], chunks: Mapping[Key, FetchedChunk]) -> list[PlacedChunk]:
    """What was found, at its places in the prompt."""
    return [_placed(outcome, chunks) for outcome in outcomes if outcome.found is not None]


def _placed(outcome: ChunkOutcome, chunks: Mapping[Key, FetchedChunk]) -> PlacedChunk:
    ref, found = outcome.ref, outcome.found
    if found is None:
        raise ValueError("expected an outcome that was found")
    chunk = chunks[key_of(found)]
    cut = slice(outcome.source_begin, outcome.source_begin + len(ref.token_ids))
    side, meta = chunk.side, found.info.meta
    place = ReusedChunk(
        ref.begin,
        ref.end,
        ref.chunk_key,
        meta.variant,
        None if side is None or side.dependence is None else side.dependence[:, :, cut],
        None if side is None or side.inter is None else side.inter[cut],
        *((meta.sources, meta.intra) if len(ref.token_ids) == meta.tokens else ()),
    )
    part = ChunkPart(chunk, outcome.source_begin, len(ref.token_ids))
    return PlacedChunk(part, place, found.context == "exact", outcome.repair)
