"""Known chunks in a prompt that comes as plain token ids: found by fingerprints, taken only when the tokens are equal.

Pure computation. A cache node says which chunks share fingerprints with a text (`CacheNodes.find_chunks`); that is a
guess. `whole_chunks` takes those that are in the prompt from their first token to their last, which their keys prove.
For the rest `diagonals` says where parts of chunks may lie, and `runs` compares them with the fetched chunk's tokens.
"""

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.catalog import ChunkMatch
from kvquilt_codec.fingerprints import Fingerprint
from kvquilt_codec.identity import Namespace, chunk_key
from kvquilt_codec.types import TokenIds

MIN_RUN = 16
MAX_HASHED = 64
"""How many times the prompt's length is hashed at most: a node that guesses wrong costs no more than this."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A whole chunk in a prompt: `tokens` tokens from position `begin` on, equal to those of the key."""

    chunk_key: bytes
    begin: int
    tokens: int

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.begin + self.tokens


@dataclass(frozen=True, slots=True)
class Diagonal:
    """A guess that a part of a chunk lies in a prompt.

    Attributes:
        chunk_key: of the chunk.
        tokens: of the whole chunk.
        begin: position in the prompt at which the chunk's first token would be; below 0 where only a later part is in.
        votes: fingerprints that say so; 0 for a guess from a chunk beside it.
    """

    chunk_key: bytes
    tokens: int
    begin: int
    votes: int


@dataclass(frozen=True, slots=True)
class Run:
    """`length` tokens that are the same from `source_begin` of a chunk and from `begin` of a prompt on."""

    source_begin: int
    begin: int
    length: int

    @property
    def end(self) -> int:
        """Position in the prompt after its last token."""
        return self.begin + self.length


def whole_chunks(
    namespace: Namespace,
    model_fingerprint: str,
    prompt: TokenIds,
    fingerprints: Sequence[Fingerprint],
    matches: Sequence[ChunkMatch],
) -> list[FoundChunk]:
    """Whole chunks in a prompt, at any offset, without overlaps; the longest are taken first, then from left to right.

    Args:
        namespace: whose secret keys the chunks.
        model_fingerprint: hex digest of the model.
        prompt: `[tokens]`.
        fingerprints: of the prompt, as `kvquilt_codec.fingerprints.fingerprints` gives them.
        matches: what a node found of them; each names one of `fingerprints`.

    Returns:
        By ascending position. Every one has the tokens of its key.
    """
    candidates = {
        (-match.tokens, fingerprints[match.fingerprint][0] - match.offset, match.chunk_key) for match in matches
    }
    free = np.ones(len(prompt), np.bool_)
    found: list[FoundChunk] = []
    allowance = MAX_HASHED * len(prompt)
    for negative, begin, key in sorted(candidates):
        candidate = FoundChunk(key, begin, -negative)
        place = slice(begin, candidate.end)
        if begin < 0 or candidate.end > len(prompt) or not free[place].all():
            continue
        allowance -= candidate.tokens
        if allowance < 0:
            break
        if chunk_key(namespace, model_fingerprint, prompt[place]) == key:
            found.append(candidate)
            free[place] = False
    return sorted(found, key=lambda chunk: chunk.begin)


def diagonals(
    prompt_tokens: int,
    fingerprints: Sequence[Fingerprint],
    matches: Sequence[ChunkMatch],
    found: Sequence[FoundChunk] = (),
) -> list[Diagonal]:
    """Where parts of chunks may lie in what the whole chunks leave of a prompt; the most votes first.

    Next to the whole chunks (and the prompt's ends) a chunk that was edited may have an unedited part too short for a
    fingerprint: there the chunk is guessed to begin, or to end.

    Args:
        prompt_tokens: length of the prompt.
        fingerprints: of the prompt.
        matches: what a node found of them.
        found: the whole chunks, by ascending position.
    """
    begins = [chunk.begin for chunk in found]
    ends = [0, *(chunk.end for chunk in found)]
    votes: Counter[tuple[bytes, int, int]] = Counter()
    for match in matches:
        position = fingerprints[match.fingerprint][0]
        before = bisect_right(begins, position)
        if before and position < ends[before]:
            continue
        votes[match.chunk_key, match.tokens, position - match.offset] += 1
        following = begins[before] if before < len(begins) else prompt_tokens
        for beside in (ends[before], following - match.tokens):
            votes[match.chunk_key, match.tokens, beside] += 0
    ordered = sorted(votes.items(), key=lambda item: (-item[1], item[0][2], item[0][0]))
    return [Diagonal(key, tokens, begin, count) for (key, tokens, begin), count in ordered]


def runs(
    prompt_tokens: TokenIds,
    chunk_tokens: TokenIds,
    diagonals: Sequence[Diagonal],
    min_run: int = MIN_RUN,
    taken: Sequence[tuple[int, int]] = (),
) -> list[Run]:
    """What a prompt and a chunk have in common along diagonals, compared token by token.

    Runs are as long as they can be, do not overlap in the prompt, and have at least `min_run` tokens. Where they
    compete, the longest wins, then the leftmost; of another the rest is kept if it is long enough.

    Args:
        prompt_tokens: `[tokens]`.
        chunk_tokens: `[tokens]`, the fetched chunk's own.
        diagonals: those of this chunk.
        min_run: tokens of the shortest run that is worth it, at least 1.
        taken: half-open spans of the prompt that are not to be used.

    Returns:
        By ascending position in the prompt.
    """
    free = np.ones(len(prompt_tokens), np.bool_)
    for begin, end in taken:
        free[begin:end] = False
    queue: list[tuple[int, int, int]] = []
    for shift in {diagonal.begin for diagonal in diagonals}:
        first, last = max(0, shift), min(len(prompt_tokens), shift + len(chunk_tokens))
        if last - first >= min_run:
            equal = free[first:last] & (prompt_tokens[first:last] == chunk_tokens[first - shift : last - shift])
            queue += [(-length, first + begin, shift) for begin, length in _stretches(equal, min_run)]
    heapq.heapify(queue)
    chosen: list[Run] = []
    while queue:
        negative, begin, shift = heapq.heappop(queue)
        left = free[begin : begin - negative]
        if left.all():
            chosen.append(Run(begin - shift, begin, -negative))
            left[:] = False
        else:
            for offset, length in _stretches(left, min_run):
                heapq.heappush(queue, (-length, begin + offset, shift))
    return sorted(chosen, key=lambda run: run.begin)


def _stretches(mask: Mask, shortest: int) -> Iterator[tuple[int, int]]:
    """Begin and length of the runs of true values."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= shortest:
            yield begin, end - begin
