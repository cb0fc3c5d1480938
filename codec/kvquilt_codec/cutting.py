"""Content-defined chunking over tokens: where a document is cut depends on what it holds near the cut, so that an edit
moves the cuts near it and no others.

A cut is made where the hash of the `_WITNESS` tokens before it is the smallest within half a target on either side
(Bjørner, Blass, Gurevich: "Content-dependent chunking for differential compression, the local maximum approach", JCSS
2010). That alone knows no longest chunk; a piece that is too long is cut once more at the smallest hash within it,
which again depends on this piece only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.rolling import run_hashes, sliding_minimum
from kvquilt_codec.types import MAX_CHUNK_TOKENS, TokenIds

_WITNESS = 16
_NEVER = np.iinfo(np.uint64).max


def cut(token_ids: TokenIds, target_tokens: int) -> list[int]:
    """Where the chunks of a document end: positions after their last tokens, ascending; the last is its length.

    Chunks have at least `target_tokens // 2` tokens (the whole document, if that is shorter), at most twice the target
    and `MAX_CHUNK_TOKENS`, on ordinary text about the target. The same tokens are cut the same way in every process.

    Args:
        token_ids: `[tokens]`; none gives no chunk.
        target_tokens: 1 to 4,096.

    Raises:
        BadRequestError: a target outside of that.
    """
    return cuts(token_ids, target_tokens).ends


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where a document is cut.

    Attributes:
        ends: of its chunks; see `cut`.
        sure: those of them, the last perhaps not, that are also made in every longer text that begins with the
            document, ascending. So are all `ends` before the last of them.
        reach: the next sure cut of a longer text is at most so many tokens before the document's end.
    """

    ends: list[int]
    sure: list[int]
    reach: int


def cuts(token_ids: TokenIds, target_tokens: int) -> Cuts:
    """`cut`, and which of the cuts do not depend on where the document ends. Arguments and errors as there."""
    if not 1 <= target_tokens <= MAX_CHUNK_TOKENS:
        raise BadRequestError(f"expected a target of 1..{MAX_CHUNK_TOKENS} tokens; got {target_tokens}")
    tokens = len(token_ids)
    shortest = max(1, target_tokens // 2)
    longest = min(2 * target_tokens, MAX_CHUNK_TOKENS)
    hashes = np.full(tokens + 1, _NEVER, np.uint64)
    if tokens > _WITNESS:
        hashes[_WITNESS:] = run_hashes(token_ids, _WITNESS)
    sure = _minima(hashes, shortest)
    ends: list[int] = []
    begin = 0
    for cut_at in (*sure, tokens):
        pieces = [(begin, cut_at)] if cut_at > begin else []
        while pieces:
            first, end = pieces.pop()
            if end - first <= longest:
                ends.append(end)
                continue
            # The piece is longer than two of the shortest, so there is room; of equal hashes the first.
            middle = first + shortest + int(np.argmin(hashes[first + shortest : end - shortest + 1]))
            pieces += [(middle, end), (first, middle)]
        begin = cut_at
    return Cuts(ends, sure, shortest)


def _minima(hashes: NDArray[np.uint64], reach: int) -> list[int]:
    """Positions whose hash is below all within `reach` before it and at most any within `reach` after it."""
    if len(hashes) <= 2 * reach:
        return []
    around = sliding_minimum(hashes, reach)
    inner = hashes[reach:-reach]
    before, after = around[: len(inner)], around[reach + 1 :]
    return (np.flatnonzero((inner < before) & (inner <= after)) + reach).tolist()
