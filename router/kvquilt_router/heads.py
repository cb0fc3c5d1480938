"""Finds the longest head of a prompt whose stored KV was computed in exactly this context, with one look-up.

The keys of exact chunks follow from the tokens, so it need not be known what is stored, nor after which shared prefix.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import context_digest, object_key, variant_key
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import TokenIds, VariantKind
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.lattice import Piece, pieces
from kvquilt_router.misses import unanswered
from kvquilt_router.planning import PREFIX_POINT, Planner
from kvquilt_router.prefixes import begins, uncut
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.types import ChunkOutcome, ChunkRef, Found, Prompt
from kvquilt_rpc import spans
from kvquilt_rpc.nodes import CacheNodes, ObjectRef


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What is stored of a prompt's head.

    Attributes:
        chunks: found ones, each beginning where the one before it ends; they hold the tokens from `begin` to `end`.
        begin: not beyond what the worker has.
        end: after the last token.
        reached: how far a head goes that begins with the first token; less than `end` where only the worker has KV of
            tokens in between.
        stored: how far such a head goes whose chunks are cut as this prompt's are when they are stored.
        found: all that is stored of the prompt in its exact context, in any order.
        missed: why what is not in it was missed.
    """

    chunks: list[ChunkOutcome]
    begin: int
    end: int
    reached: int
    stored: int
    found: list[ChunkOutcome]
    missed: str = "not_stored"

    def widened(self, others: Sequence[ChunkOutcome], computed: int) -> "Head":
        """The longest head of these chunks and others, which are stored in the prompt's exact context too.

        Args:
            others: in any order.
            computed: as of `HeadFinder.find`.
        """
        return _head([*self.found, *others], computed, self.stored, self.missed)


class HeadFinder:
    """Finds exact heads of one model's prompts in one namespace.

    Args:
        head: of the model's chat template, which a plain prompt that begins with it is cut after when it is stored.
        chunk_tokens: about the length of chunks.
        deadline: seconds of the look-up.
    """

    def __init__(
        self,
        nodes: CacheNodes,
        planner: Planner,
        profile: ModelProfile,
        head: TokenIds,
        *,
        chunk_tokens: int,
        deadline: float,
    ) -> None:
        self._nodes = nodes
        self._planner = planner
        self._profile = profile
        self._head = head
        self._chunk_tokens = chunk_tokens
        self._deadline = deadline

    def pieces(self, prompt: Prompt) -> list[Piece]:
        """Where a prompt may be cut."""
        return pieces(prompt, self._chunk_tokens)

    def ref(self, prompt: Prompt, piece: Piece, point: OperatingPoint) -> ChunkRef:
        """A piece as a chunk."""
        tokens = prompt.token_ids[piece.begin : piece.end]
        own = PREFIX_POINT if piece.segment == 0 else point
        return self._planner.chunk(tokens, own, piece.segment, piece.begin, piece.segment in prompt.public)

    @spans.traced("kvquilt.find")
    async def find(
        self, prompt: Prompt, point: OperatingPoint, computed: int, end: int, *, cut_otherwise: bool = False
    ) -> Head:
        """The longest head; it may be empty. A node that does not answer has nothing.

        Args:
            prompt: see there.
            point: the level that is asked for; lossless objects serve every level.
            computed: the worker has KV of so many first tokens.
            end: no token from this one on is wanted.
            cut_otherwise: what was stored of the same tokens without their boundaries serves too.
        """
        candidates = await asyncio.to_thread(self._candidates, prompt, point, end, cut_otherwise)
        missed = "not_stored"
        try:
            refs = list(dict.fromkeys(ref for candidate in candidates for ref, _ in candidate.objects))
            found = await self._nodes.stat(refs, deadline=self._deadline)
        except KvquiltError as error:
            missed, found = unanswered(error), {}
        stored = [(candidate.own, outcome) for candidate in candidates if (outcome := candidate.outcome(found))]
        own = _reached([outcome for is_own, outcome in stored if is_own])
        return _head([outcome for _, outcome in stored], computed, own, missed)

    def _candidates(self, prompt: Prompt, point: OperatingPoint, end: int, cut_otherwise: bool) -> list["_Candidate"]:
        tokens = prompt.token_ids
        digests: dict[int, bytes] = {}
        candidates: dict[tuple[int, int, bool], _Candidate] = {}
        for number, variant in enumerate(self._variants(prompt, cut_otherwise)):
            for piece in self.pieces(variant):
                place = (piece.begin, piece.end, piece.segment == 0)
                if piece.end > end or place in candidates:
                    continue
                if piece.begin not in digests:
                    digests[piece.begin] = context_digest(tokens[: piece.begin])
                ref = self.ref(variant, piece, point)
                objects = tuple(self._objects(ref, digests[piece.begin], len(variant.prefix)))
                named = ref if piece.segment == 0 else replace(ref, segment=_segment(prompt, piece.begin))
                candidates[place] = _Candidate(named, objects, number == 0)
        return list(candidates.values())

    def _variants(self, prompt: Prompt, cut_otherwise: bool) -> list[Prompt]:
        """The prompt with all boundaries that it may have been stored with, first those that it is stored with now.

        Where some of it is public, these only: whose key a piece across its segments has is not known.
        """
        tokens = prompt.token_ids
        plain = [uncut(tokens, len(prefix)) for prefix in (self._head, self._head[:0]) if begins(tokens, prefix)]
        own = plain[0] if prompt.plain else prompt
        return [own, prompt, *plain] if cut_otherwise and not prompt.public else [own]

    def _objects(self, ref: ChunkRef, context: bytes, prefix: int) -> Iterator[tuple[ObjectRef, OperatingPoint]]:
        """The objects that would serve a chunk, the best first, and how they are read."""
        points = dict.fromkeys((ref.point, LOSSLESS_POINT))
        for point in points:
            if self._profile.miss_reason and point.form.profile_digest:
                continue
            for kind in _kinds(ref, prefix):
                key = object_key(variant_key(ref.chunk_key, kind, context), point.form)
                yield ObjectRef(key, ref.chunk_key), point


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A chunk that may be stored, the objects that would serve it, and whether the prompt is cut there."""

    ref: ChunkRef
    objects: tuple[tuple[ObjectRef, OperatingPoint], ...]
    own: bool

    def outcome(self, found: Mapping[bytes, ObjectInfo]) -> ChunkOutcome | None:
        """The chunk with the best of its objects that exist."""
        for ref, point in self.objects:
            info = found.get(ref.key)
            if info is not None and info.meta.tokens == len(self.ref.token_ids):
                read = point if info.meta.form != LOSSLESS else LOSSLESS_POINT
                return ChunkOutcome(self.ref, Found(info, EXACT, read))
        return None


def _head(found: list[ChunkOutcome], computed: int, own: int, missed: str) -> Head:
    chunks = longest(found, computed)
    begin = chunks[0].ref.begin if chunks else computed
    end = chunks[-1].ref.end if chunks else computed
    return Head(chunks, begin, end, _reached(found), own, found, missed)


def _reached(found: Sequence[ChunkOutcome]) -> int:
    return max((outcome.ref.end for outcome in longest(found, 0)), default=0)


def _segment(prompt: Prompt, position: int) -> int:
    """In which of a prompt's segments a position is."""
    ends = np.cumsum([len(prompt.prefix), *map(len, prompt.documents)])
    return int(np.searchsorted(ends, position, "right"))


def _kinds(ref: ChunkRef, prefix: int) -> Sequence[VariantKind]:
    """What a variant may be called that was computed after exactly what precedes a chunk in its prompt."""
    if ref.segment == 0:
        return (VariantKind.EXACT,)
    return (VariantKind.EXACT, VariantKind.BASE if ref.begin == prefix else VariantKind.PAIR)


def longest(stored: Sequence[ChunkOutcome], computed: int) -> list[ChunkOutcome]:
    """Chunks one after the other that reach the furthest, and add to what the worker has; of such, the fewest bytes.

    Args:
        stored: in any order.
        computed: the first may begin anywhere up to here.
    """
    reached: dict[int, tuple[int, ChunkOutcome]] = {}
    for outcome in sorted(stored, key=lambda outcome: (outcome.ref.begin, outcome.ref.end)):
        ref, found = outcome.ref, outcome.found
        if ref.end <= computed or found is None:
            continue
        before = 0 if ref.begin <= computed else reached[ref.begin][0] if ref.begin in reached else None
        if before is None:
            continue
        cost = before + found.info.stored_bytes
        if ref.end not in reached or cost < reached[ref.end][0]:
            reached[ref.end] = cost, outcome
    chain: list[ChunkOutcome] = []
    position = max(reached, default=computed)
    while position > computed:
        outcome = reached[position][1]
        chain.append(outcome)
        position = outcome.ref.begin
    return chain[::-1]
