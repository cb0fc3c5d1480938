"""Where a prompt may be cut into exact chunks, such that a longer prompt finds what a shorter one left. No I/O.

Documents and shared prefixes are complete: they are cut as everywhere else. What may go on in a later prompt (a plain
prompt, a question and its answer) is cut where every longer text is cut too; behind the last such cut in whole token
blocks from there, of which a longer text knows too. Chunks overlap, then: a later cut may fall between two blocks.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from kvquilt_codec.cutting import cuts
from kvquilt_codec.types import MAX_CHUNK_TOKENS, TOKEN_BLOCK
from kvquilt_router.types import Prompt


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A run of a prompt's tokens that may be stored as a chunk in its exact context.

    Attributes:
        begin: position of its first token.
        end: position after its last.
        segment: 0 for the shared prefix, i for the i-th document, from 1; one more for what follows them.
        whole: it is cut where documents are cut; else it is part of the end of a text that may go on.
    """

    begin: int
    end: int
    segment: int
    whole: bool = True


def pieces(prompt: Prompt, chunk_tokens: int) -> list[Piece]:
    """All of them, ascending. None is public but those of the prompt's public segments.

    Args:
        prompt: see there; its question is taken as the beginning of a text that may go on.
        chunk_tokens: about the length of chunks.
    """
    found = list(_closed(0, _steps(len(prompt.prefix)), 0))
    begin = len(prompt.prefix)
    if not prompt.plain:
        for segment, document in enumerate(prompt.documents, start=1):
            found += _closed(begin, cuts(document, chunk_tokens).ends, segment)
            begin += len(document)
    segment = 1 if prompt.plain else len(prompt.documents) + 1
    return sorted({*found, *_open(prompt, begin, segment, chunk_tokens)})


def partition(found: list[Piece], begin: int, end: int) -> list[Piece]:
    """Pieces one after the other that hold as much of the tokens from `begin` to `end` as they can.

    From a place where both begin, a whole piece is taken rather than a block.
    """
    chosen: list[Piece] = []
    position = None
    for piece in sorted(found, key=lambda piece: (piece.begin, not piece.whole, piece.end)):
        if piece.end <= end and (piece.begin >= begin if position is None else piece.begin == position):
            chosen.append(piece)
            position = piece.end
    return chosen


def _steps(tokens: int) -> list[int]:
    return [*range(MAX_CHUNK_TOKENS, tokens, MAX_CHUNK_TOKENS), *([tokens] if tokens else [])]


def _closed(begin: int, ends: list[int], segment: int) -> Iterator[Piece]:
    first = 0
    for end in ends:
        yield Piece(begin + first, begin + end, segment)
        first = end


def _open(prompt: Prompt, begin: int, segment: int, chunk_tokens: int) -> Iterator[Piece]:
    tokens = prompt.token_ids[begin:]
    made, block = cuts(tokens, chunk_tokens), min(TOKEN_BLOCK, chunk_tokens)
    last = made.sure[-1] if made.sure else 0
    bounds = [end for end in made.ends if end <= last]
    yield from _closed(begin, bounds, segment)
    starts = [0, *made.sure, len(tokens)]
    for number, start in enumerate(starts[:-1]):
        following = starts[number + 1]
        # A shorter text, which did not know the cut that follows, may have gone on beyond it.
        limit = min(len(tokens), following + made.reach)
        for first in range(start, limit + 1, block):
            ends = [first + block] if first + block <= limit else []
            if first > following:
                # From there it finds back to the blocks of that cut.
                back = following + block * ((first - following) // block + 1)
                ends += [back] if back <= len(tokens) else []
            for end in ends:
                yield Piece(begin + first, begin + end, segment, whole=False)
            after = bisect_right(bounds, first)
            if after < len(bounds) and first != start:
                yield Piece(begin + first, begin + bounds[after], segment)
