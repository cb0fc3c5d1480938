"""Known text inside what a prompt's own chunks did not find: whole chunks at any offset, and parts of edited ones.

Two steps. Before anything is fetched, fingerprints tell which stored chunks may be in the prompt: whole ones are proved
by their keys, others are guesses. When the chunks have come, guesses are compared with the prompt token by token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.fingerprints import Fingerprint, K, fingerprints
from kvquilt_codec.identity import context_digest
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import TokenIds
from kvquilt_router.matching import Diagonal, FoundChunk, diagonals, runs, whole_chunks
from kvquilt_router.planning import Planner
from kvquilt_router.types import ChunkOutcome, ChunkRef, Found, Prompt
from kvquilt_router.variants import DEPENDENT, Place, best
from kvquilt_rpc.nodes import CacheNodes

GUESSES_PER_SPAN = 8
"""Chunks of which parts may be in a span that are fetched for comparison, the most promising first."""
REPAIRED = 32
"""Tokens after an edit that are computed again (EditLocal, arXiv 2609.17983: contiguous, not scattered, ones)."""


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """A stored chunk of which parts may be in a span of the prompt.

    Attributes:
        found: the stored object; its context is what it is where the chunk's beginning would be.
        outcome: of the span, which was missed as a whole.
        diagonals: where the parts would be; positions relative to the span.
    """

    found: Found
    outcome: ChunkOutcome
    diagonals: tuple[Diagonal, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Came:
    """What a guess is compared by: the stored chunk's tokens, and the tier that they were read from."""

    token_ids: TokenIds
    tier: Tier | None


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """Consecutive runs of one document that were all missed."""

    outcomes: list[ChunkOutcome]
    segment: int
    begin: int
    token_ids: TokenIds
    point: OperatingPoint
    fingerprints: list[Fingerprint]
    public: bool


class Finder:
    """Finds known text of one model in one namespace."""

    def __init__(self, nodes: CacheNodes, planner: Planner, *, deadline: float) -> None:
        self._nodes = nodes
        self._planner = planner
        self._deadline = deadline

    async def find(
        self, prompt: Prompt, outcomes: Sequence[ChunkOutcome], order: Sequence[str]
    ) -> tuple[list[ChunkOutcome], list[Guess]]:
        """Outcomes with what was found inside missed spans, and guesses for the rest.

        Raises:
            KvquiltError: no node answers.
        """
        spans = self._spans(outcomes)
        if not spans:
            return list(outcomes), []
        matches = await self._nodes.find_chunks(
            [digest for span in spans for _, digest in span.fingerprints],
            self._planner.fingerprint,
            deadline=self._deadline,
        )
        offset = 0
        whole: list[list[FoundChunk]] = []
        partial: list[list[Diagonal]] = []
        for span in spans:
            count = len(span.fingerprints)
            own = [
                replace(match, fingerprint=match.fingerprint - offset)
                for match in matches
                if offset <= match.fingerprint < offset + count
            ]
            offset += count
            namespace = self._planner.namespace_of(span.public)
            whole.append(whole_chunks(namespace, self._planner.fingerprint, span.token_ids, span.fingerprints, own))
            partial.append(diagonals(len(span.token_ids), span.fingerprints, own, whole[-1]))
        keys = {chunk.chunk_key for found in whole for chunk in found}
        keys |= {diagonal.chunk_key for found in partial for diagonal in found if diagonal.votes}
        found = await self._nodes.find_variants(
            sorted(keys), self._planner.fingerprint, context_digest(prompt.prefix), deadline=self._deadline
        )
        others = [(outcome.ref.chunk_key, outcome.ref.begin) for outcome in outcomes]
        variants = found.objects
        replaced: dict[int, list[ChunkOutcome]] = {}
        guesses: list[Guess] = []
        for span, chunks, parts in zip(spans, whole, partial, strict=True):
            pieces = self._pieces(prompt, span, chunks, variants, order, others)
            guessed = self._guesses(prompt, span, pieces, parts, variants, order, others)
            # A run that crosses the cuts of the missed chunks is found whole only in the span as one piece.
            replaced[span.begin] = pieces if chunks or guessed else span.outcomes
            guesses += guessed
        return _replaced(outcomes, spans, replaced), guesses

    def _spans(self, outcomes: Sequence[ChunkOutcome]) -> list[_Span]:
        groups: list[list[ChunkOutcome]] = []
        for outcome in outcomes:
            if not outcome.ref.segment or outcome.miss_reason != "not_stored":
                continue
            last = groups[-1][-1].ref if groups else None
            if last is not None and last.segment == outcome.ref.segment and last.end == outcome.ref.begin:
                groups[-1].append(outcome)
            else:
                groups.append([outcome])
        spans = []
        for group in groups:
            tokens = np.concatenate([outcome.ref.token_ids for outcome in group])
            if len(tokens) >= K:
                first = group[0].ref
                namespace = self._planner.namespace_of(first.public)
                found = fingerprints(namespace, self._planner.fingerprint, tokens)
                spans.append(_Span(group, first.segment, first.begin, tokens, first.point, found, first.public))
        return spans

    def _pieces(
        self,
        prompt: Prompt,
        span: _Span,
        chunks: Sequence[FoundChunk],
        variants: Mapping[bytes, Sequence[ObjectInfo]],
        order: Sequence[str],
        others: Sequence[tuple[bytes, int]],
    ) -> list[ChunkOutcome]:
        """A span cut into the whole chunks that are in it and what is between them."""
        tokens, prefix = prompt.token_ids, context_digest(prompt.prefix)
        pieces: list[ChunkOutcome] = []
        position, previous = 0, None
        inside = [(chunk.chunk_key, span.begin + chunk.begin) for chunk in chunks]
        for chunk in chunks:
            if chunk.begin > position:
                pieces.append(self._missed(span, position, chunk.begin))
                previous = None
            begin = span.begin + chunk.begin
            text = span.token_ids[chunk.begin : chunk.end]
            ref = ChunkRef(span.segment, begin, text, chunk.chunk_key, span.point, span.public)
            place = Place(tokens[:begin], prefix, previous, [*others, *inside])
            found = best(variants.get(chunk.chunk_key, ()), place, chunk.tokens, span.point, order)
            pieces.append(ChunkOutcome(ref, found, "" if found is not None else "not_stored"))
            position, previous = chunk.end, chunk.chunk_key
        if position < len(span.token_ids):
            pieces.append(self._missed(span, position, len(span.token_ids)))
        return pieces

    def _missed(self, span: _Span, begin: int, end: int) -> ChunkOutcome:
        tokens = span.token_ids[begin:end]
        ref = self._planner.chunk(tokens, span.point, span.segment, span.begin + begin, span.public)
        return ChunkOutcome(ref, miss_reason="not_stored")

    def _guesses(
        self,
        prompt: Prompt,
        span: _Span,
        pieces: Sequence[ChunkOutcome],
        parts: Sequence[Diagonal],
        variants: Mapping[bytes, Sequence[ObjectInfo]],
        order: Sequence[str],
        others: Sequence[tuple[bytes, int]],
    ) -> list[Guess]:
        guesses: list[Guess] = []
        tokens, prefix = prompt.token_ids, context_digest(prompt.prefix)
        for piece in pieces:
            if piece.found is not None:
                continue
            base = piece.ref.begin - span.begin
            near: dict[bytes, list[Diagonal]] = {}
            for part in parts:
                moved = Diagonal(part.chunk_key, part.tokens, part.begin - base, part.votes)
                if moved.begin < len(piece.ref.token_ids) and moved.begin + moved.tokens > 0:
                    near.setdefault(part.chunk_key, []).append(moved)
            voted = [own for own in near.values() if own[0].votes]
            for own in voted[:GUESSES_PER_SPAN]:
                # Where a part may begin the piece, only that one can be in its exact context.
                shift = 0 if any(part.begin == 0 for part in own) else own[0].begin
                begin = max(0, piece.ref.begin + shift)
                place = Place(tokens[:begin], prefix, None, others)
                found = best(variants.get(own[0].chunk_key, ()), place, own[0].tokens, piece.ref.point, order)
                if found is not None:
                    guesses.append(Guess(found, piece, tuple(own)))
        return guesses

    def aligned(
        self, outcomes: Sequence[ChunkOutcome], guesses: Sequence[Guess], came: Mapping[Found, Came]
    ) -> list[ChunkOutcome]:
        """Outcomes with the parts of guessed chunks that are in the prompt, compared token by token.

        Args:
            outcomes: ascending.
            guesses: for some of them.
            came: of the guessed chunks those that did.
        """
        result: list[ChunkOutcome] = []
        for outcome in outcomes:
            own = [guess for guess in guesses if guess.outcome is outcome and guess.found in came]
            result += self._parts(outcome, own, came) if own else [outcome]
        return result

    def _parts(self, outcome: ChunkOutcome, guesses: Sequence[Guess], came: Mapping[Found, Came]) -> list[ChunkOutcome]:
        ref = outcome.ref
        taken: list[tuple[int, int]] = []
        found: list[tuple[int, int, int, Found]] = []
        for guess in guesses:
            for run in runs(ref.token_ids, came[guess.found].token_ids, guess.diagonals, taken=taken):
                taken.append((run.begin, run.end))
                found.append((run.begin, run.end, run.source_begin, guess.found))
        pieces: list[ChunkOutcome] = []
        position = 0
        for begin, end, source_begin, stored in sorted(found, key=lambda part: part[0]):
            edited = begin > position
            if edited:
                pieces.append(self._missed_part(ref, position, begin))
            part = self._part(ref, begin, end)
            exact = stored.context == "exact" and source_begin == 0 and begin == 0
            context = stored if exact else Found(stored.info, changed(stored), stored.point)
            repair = min(REPAIRED, end - begin) if edited or (pieces and not exact) else 0
            tier = came[stored].tier
            pieces.append(ChunkOutcome(part, context, source_begin=source_begin, repair=repair, tier=tier))
            position = end
        if position < len(ref.token_ids):
            pieces.append(self._missed_part(ref, position, len(ref.token_ids)))
        return pieces

    def _missed_part(self, ref: ChunkRef, begin: int, end: int) -> ChunkOutcome:
        return ChunkOutcome(self._part(ref, begin, end), miss_reason="not_stored")

    def _part(self, ref: ChunkRef, begin: int, end: int) -> ChunkRef:
        return self._planner.chunk(ref.token_ids[begin:end], ref.point, ref.segment, ref.begin + begin, ref.public)


def changed(found: Found) -> str:
    """What a chunk's context is to a part of it that does not follow what it followed there."""
    return "warm" if found.info.meta.variant in DEPENDENT and found.context != "base" else "base"


def _replaced(
    outcomes: Sequence[ChunkOutcome], spans: Sequence[_Span], pieces: Mapping[int, list[ChunkOutcome]]
) -> list[ChunkOutcome]:
    """Outcomes with those of each span replaced."""
    result: list[ChunkOutcome] = []
    for outcome in outcomes:
        span = next(
            (s for s in spans if s.begin <= outcome.ref.begin < s.begin + len(s.token_ids) and outcome.ref.segment),
            None,
        )
        if span is None:
            result.append(outcome)
        elif outcome.ref.begin == span.begin:
            result += pieces[span.begin]
    return result
