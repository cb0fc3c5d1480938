"""Which chunks a finished blend needed: those that it found, and those that it would have found if they were stored."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kvquilt_codec.types import KVLayout
from kvquilt_router.blending import Blended
from kvquilt_router.planning import Planner
from kvquilt_router.types import ChunkRef


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
    """

    chunk_key: bytes
    public: bool
    tokens: int
    stored_bytes: int
    compute_seconds: float
    found: bool


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


def needs(blended: Blended, planner: Planner, sizes: Sizes) -> list[Need]:
    """What a blend needed, in the order of its prompt, each chunk once; `sizes` learns from what was found.

    Args:
        blended: see there.
        planner: of the namespace that it was in.
        sizes: of the model.
    """
    needed: list[tuple[int, Need]] = []
    for outcome in blended.report.chunks:
        if outcome.found is not None:
            info, ref = outcome.found.info, outcome.ref
            meta = info.meta
            sizes.learn(meta.form.name, meta.tokens, info.stored_bytes)
            need = Need(meta.chunk_key, ref.public, meta.tokens, info.stored_bytes, meta.compute_seconds, True)
            needed.append((ref.begin, need))
    for ref in (*_missed_prefix(blended), *missed(blended, planner)):
        tokens = len(ref.token_ids)
        seconds = tokens * blended.seconds_per_token
        size = sizes.of(ref.point.form.name, tokens)
        needed.append((ref.begin, Need(ref.chunk_key, ref.public, tokens, size, seconds, False)))
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
        if not outcome.ref.segment or outcome.miss_reason in ("", "gate_closed"):
            continue
        if blended.prompt.plain:
            # Its last piece holds the question, or ends within a text that goes on elsewhere.
            ref = outcome.ref
            refs += list(planner.document(ref.token_ids, ref.point, ref.segment, ref.begin))[:-1]
        else:
            refs.append(outcome.ref)
    return [ref for ref in refs if 2 * held[ref.begin : ref.end].sum() < len(ref.token_ids)]


def _missed_prefix(blended: Blended) -> Iterator[ChunkRef]:
    return (o.ref for o in blended.looked_up if not o.ref.segment and o.miss_reason not in ("", "gate_closed"))
