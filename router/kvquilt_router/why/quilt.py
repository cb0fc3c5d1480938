"""A request's prompt as a quilt: its tokens in patches, each of one kind. Pure computation, when somebody looks."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.gate import CONTEXTS
from kvquilt_router.types import Extent
from kvquilt_router.why.types import RequestRecord

RECOMPUTED, COMPUTED = "recomputed", "computed"
KINDS = (*CONTEXTS, RECOMPUTED, COMPUTED)
"""What became of a token: stored KV of a chunk in this context, stored KV that was computed again, or no stored KV."""

_AGAIN, _FRESH = KINDS.index(RECOMPUTED), KINDS.index(COMPUTED)
_NO_CHUNK = -1


@dataclass(frozen=True, slots=True)
class Patch:
    """Tokens of one kind.

    Attributes:
        kind: one of `KINDS`.
        begin: position of the first one.
        tokens: how many.
        chunk: number of the record's chunk that they belong to; `None`: of none.
    """

    kind: str
    begin: int
    tokens: int
    chunk: int | None


@dataclass(frozen=True, slots=True)
class Quilt:
    """All tokens of a prompt, in patches.

    Attributes:
        patches: runs of tokens in the order of the prompt. Where these were too many, the tokens of a chunk that are of
            one kind are together in one patch, or all of the prompt that are.
        merged: whether they are.
    """

    patches: list[Patch]
    merged: bool

    def tokens(self) -> dict[str, int]:
        """Tokens by kind; kinds without any are left out."""
        found: dict[str, int] = {}
        for patch in self.patches:
            found[patch.kind] = found.get(patch.kind, 0) + patch.tokens
        return found


def quilt(record: RequestRecord, most: int) -> Quilt:
    """A request's quilt in at most so many patches (at least one of each kind)."""
    kinds, owners = _tokens(record)
    runs = _runs(2 * np.int64(len(KINDS)) * owners + kinds)
    if len(runs) <= most:
        return Quilt([_patch(kinds, owners, begin, end) for begin, end in runs], False)
    pieces = _runs(owners)
    if len(KINDS) * len(pieces) <= most:
        return Quilt([patch for begin, end in pieces for patch in _by_kind(kinds, owners, begin, end)], True)
    return Quilt([Patch(p.kind, p.begin, p.tokens, None) for p in _by_kind(kinds, owners, 0, len(kinds))], True)


def _tokens(record: RequestRecord) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each token the kind and the chunk."""
    kinds = np.full(len(record.token_ids), _FRESH, np.int64)
    owners = np.full(len(record.token_ids), _NO_CHUNK, np.int64)
    for number, chunk in enumerate(record.chunks):
        where = slice(chunk.ref.begin, chunk.ref.end)
        owners[where] = number
        if chunk.source is not None:
            kinds[where] = KINDS.index(chunk.context)
    if record.served.extent is Extent.PROMPT:
        again = record.recomputed[kinds[record.recomputed] != _FRESH]
        kinds[again] = _AGAIN
    else:
        kinds[: record.served.first] = _FRESH
        kinds[record.served.end :] = _FRESH
    return kinds, owners


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where equal values stand beside each other: first, and after the last."""
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return list(itertools.pairwise(cuts)) if len(values) else []


def _patch(kinds: NDArray[np.int64], owners: NDArray[np.int64], begin: int, end: int) -> Patch:
    owner = int(owners[begin])
    return Patch(KINDS[int(kinds[begin])], begin, end - begin, None if owner == _NO_CHUNK else owner)


def _by_kind(kinds: NDArray[np.int64], owners: NDArray[np.int64], begin: int, end: int) -> list[Patch]:
    """One patch for each kind that is there, in the order of their first tokens."""
    owner = int(owners[begin]) if end > begin else _NO_CHUNK
    own = kinds[begin:end]
    found, first, counts = np.unique(own, return_index=True, return_counts=True)
    order = np.argsort(first)
    return [
        Patch(KINDS[int(found[i])], begin + int(first[i]), int(counts[i]), None if owner == _NO_CHUNK else owner)
        for i in order
    ]
