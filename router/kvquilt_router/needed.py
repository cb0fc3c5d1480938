"""Which chunks a finished request needed: those that it found, and those that it would have found, were they stored."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import KVLayout, TokenIds
from kvquilt_router.blending import Blended
from kvquilt_router.estimates import UNMEASURED_SECONDS_PER_TOKEN
from kvquilt_router.offers import Loaded
from kvquilt_router.planning import Planner
from kvquilt_router.types import SLOWER, ChunkOutcome, ChunkRef


@dataclass(frozen=True, slots=True)
class Need:
    """A chunk that a request needed. What was found is measured, what was not is estimated.

    Attributes:
        chunk_key: of its text.
        public: whether its key is of the public namespace.
        tokens: of the whole chunk.
        stored_bytes: what the object that served it takes, or one would take.
        compute_seconds: seconds that computing it takes.
        found: it was served from the cache.
        tier: that it was read from; `None` if it was not found.
    """

    chunk_key: bytes
    public: bool
    tokens: int
    stored_bytes: int
    compute_seconds: float
    found: bool
    tier: Tier | None = None


@dataclass(slots=True)
class Sizes:
    """What chunks take by the form that they are stored in, learned from those that were found.

    Attributes:
        layout: of the model; a form that was never seen takes what the tensors take as they are.
    """

    layout: KVLayout
    _seen: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def learn(self, form: str, tokens: int, stored_bytes: int) -> None:
        """A chunk in this form takes so many bytes."""
        seen = self._seen[form]
        seen[0] += tokens
        seen[1] += stored_bytes

    def of(self, form: str, tokens: int) -> int:
        """What a chunk would take in this form, in bytes."""
        known, nbytes = self._seen.get(form, (0, 0))
        return round(tokens * nbytes / known) if known else self.layout.nbytes(tokens)


def needs(done: Blended | Loaded, planner: Planner, sizes: Sizes) -> list[Need]:
    """What a request needed, in the order of its prompt, each chunk once; `sizes` learns from what was found.

    Args:
        done: see there.
        planner: of the namespace that it was in.
        sizes: of the model.
    """
    needed: list[tuple[int, Need]] = []
    for outcome in done.report.chunks:
        if outcome.found is not None:
            info, ref = outcome.found.info, outcome.ref
            meta = info.meta
            sizes.learn(meta.form.name, meta.tokens, info.stored_bytes)
            size, seconds = info.stored_bytes, meta.compute_seconds
            need = Need(meta.chunk_key, ref.public, meta.tokens, size, seconds, True, outcome.tier)
            needed.append((ref.begin, need))
    if isinstance(done, Blended):
        lacking, each = [*_missed_prefix(done), *missed(done, planner)], done.seconds_per_token
    else:
        lacking = [outcome.ref for outcome in done.report.chunks if _would_serve(outcome)]
        each = done.report.prefill_seconds_per_token or UNMEASURED_SECONDS_PER_TOKEN
    for ref in lacking:
        tokens = len(ref.token_ids)
        size = sizes.of(ref.point.form.name, tokens)
        needed.append((ref.begin, Need(ref.chunk_key, ref.public, tokens, size, tokens * each, False)))
    once: dict[bytes, Need] = {}
    for _, need in sorted(needed, key=lambda item: item[0]):
        once.setdefault(need.chunk_key, need)
    return list(once.values())


def missed(blended: Blended, planner: Planner) -> list[ChunkRef]:
    """The chunks of documents that would be found if they were stored; not those whose text other chunks hold."""
    held = np.zeros(blended.prompt.context_tokens + len(blended.prompt.question), bool)
    for outcome in blended.report.chunks:
        if outcome.found is not None and len(outcome.ref.token_ids) == outcome.found.info.meta.tokens:
            held[outcome.ref.begin : outcome.ref.end] = True
    refs: list[ChunkRef] = []
    for outcome in blended.looked_up:
        if not (outcome.ref.segment and _would_serve(outcome)):
            continue
        if blended.prompt.plain:
            # Its last piece holds the question, or ends within a text that goes on elsewhere.
            ref = outcome.ref
            refs += list(planner.document(ref.token_ids, ref.point, ref.segment, ref.begin))[:-1]
        else:
            refs.append(outcome.ref)
    return [ref for ref in refs if 2 * held[ref.begin : ref.end].sum() < len(ref.token_ids)]


def _missed_prefix(blended: Blended) -> Iterator[ChunkRef]:
    return (outcome.ref for outcome in blended.looked_up if not outcome.ref.segment and _would_serve(outcome))


def _would_serve(outcome: ChunkOutcome) -> bool:
    """Whether a chunk was missed that would have been used if it were stored."""
    return outcome.miss_reason not in ("", "gate_closed", SLOWER)


def preceding(tokens: TokenIds, prefix: int, ref: ChunkRef, outcomes: Sequence[ChunkOutcome]) -> tuple[TokenIds, ...]:
    """What precedes a chunk beyond the shared prefix, chunk by chunk."""
    cuts = [outcome.ref.end - prefix for outcome in outcomes if prefix < outcome.ref.end < ref.begin]
    return tuple(np.split(tokens[prefix : ref.begin], cuts)) if ref.begin > prefix else ()
