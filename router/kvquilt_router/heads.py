"""Finds the longest head of a prompt whose stored KV was computed in exactly this context, with one look-up.

The keys of exact chunks follow from the tokens, so it need not be known what is stored, nor after which shared prefix.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import context_digest, object_key, variant_key
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import VariantKind
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.lattice import Piece, pieces
from kvquilt_router.misses import unanswered
from kvquilt_router.planning import PREFIX_POINT, Planner
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
        stored: how far a head goes that begins with the first token; less than `end` where only the worker has KV of
            tokens in between.
        missed: why what is not in it was missed.
    """

    chunks: list[ChunkOutcome]
    begin: int
    end: int
    stored: int
    missed: str = "not_stored"


class HeadFinder:
    """Finds exact heads of one model's prompts in one namespace.

    Args:
        chunk_tokens: about the length of chunks.
        deadline: seconds of the look-up.
    """

    def __init__(
        self, nodes: CacheNodes, planner: Planner, profile: ModelProfile, *, chunk_tokens: int, deadline: float
    ) -> None:
        self._nodes = nodes
        self._planner = planner
        self._profile = profile
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
    async def find(self, prompt: Prompt, point: OperatingPoint, computed: int, end: int) -> Head:
        """The longest head; it may be empty. A node that does not answer has nothing.

        Args:
            prompt: see there.
            point: the level that is asked for; lossless objects serve every level.
            computed: the worker has KV of so many first tokens.
            end: no token from this one on is wanted.
        """
        candidates = await asyncio.to_thread(self._candidates, prompt, point, end)
        missed = "not_stored"
        try:
            refs = list(dict.fromkeys(ref for candidate in candidates for ref, _ in candidate.objects))
            found = await self._nodes.stat(refs, deadline=self._deadline)
        except KvquiltError as error:
            missed, found = unanswered(error), {}
        stored = [outcome for candidate in candidates if (outcome := candidate.outcome(found)) is not None]
        chunks = longest(stored, computed)
        begin = chunks[0].ref.begin if chunks else computed
        last = chunks[-1].ref.end if chunks else computed
        return Head(chunks, begin, last, max((outcome.ref.end for outcome in longest(stored, 0)), default=0), missed)

    def _candidates(self, prompt: Prompt, point: OperatingPoint, end: int) -> list["_Candidate"]:
        tokens = prompt.token_ids
        digests: dict[int, bytes] = {}
        candidates = []
        for piece in self.pieces(prompt):
            if piece.end > end:
                continue
            if piece.begin not in digests:
                digests[piece.begin] = context_digest(tokens[: piece.begin])
            ref = self.ref(prompt, piece, point)
            own = self._objects(ref, digests[piece.begin], len(prompt.prefix))
            candidates.append(_Candidate(ref, tuple(own)))
        return candidates

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
    """A chunk that may be stored, and the objects that would serve it."""

    ref: ChunkRef
    objects: tuple[tuple[ObjectRef, OperatingPoint], ...]

    def outcome(self, found: Mapping[bytes, ObjectInfo]) -> ChunkOutcome | None:
        """The chunk with the best of its objects that exist."""
        for ref, point in self.objects:
            info = found.get(ref.key)
            if info is not None and info.meta.tokens == len(self.ref.token_ids):
                read = point if info.meta.form != LOSSLESS else LOSSLESS_POINT
                return ChunkOutcome(self.ref, Found(info, EXACT, read))
        return None


def _kinds(ref: ChunkRef, prefix: int) -> Iterable[VariantKind]:
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
