"""Which stored variant of a chunk serves a prompt best. Pure computation."""

from collections.abc import Iterable, Sequence

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import context_digest
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import TokenIds, VariantKind
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.policies.overhead import best_variant
from kvquilt_router.selection import ReusedChunk
from kvquilt_router.types import Found

DEPENDENT = (VariantKind.PAIR, VariantKind.WARM)
"""Variants that come with how far they depend on their context, which the default policy chooses by. One without counts
as computed after the shared prefix alone, whatever preceded it: that is how such chunks are measured."""


class Place:
    """A place in a prompt, as far as it matters to what a stored variant's context is to it.

    Args:
        before: all tokens before the place.
        prefix: digest of the shared prefix.
        previous: key of the chunk that ends where this place begins, if that is known.
        order: key and first position of the prompt's chunks, as far as they are known.
    """

    def __init__(
        self, before: TokenIds, prefix: bytes, previous: bytes | None, order: Sequence[tuple[bytes, int]]
    ) -> None:
        self.order = order
        self._before = before
        self._prefix = prefix
        self._previous = previous
        self._digest: bytes | None = None

    def context(self, info: ObjectInfo) -> str:
        """What the object's context is to this place; one of `kvquilt_codec.gate.CONTEXTS`."""
        meta = info.meta
        if self._digest is None:
            self._digest = context_digest(self._before)
        if meta.context_digest == self._digest:
            return "exact"
        if meta.variant not in DEPENDENT:
            return "base"
        if meta.sources and meta.sources[-1].chunk_key == self._previous:
            return "pair"
        return "base" if meta.context_digest == self._prefix else "warm"

    def reused(self, info: ObjectInfo) -> ReusedChunk:
        """The object at this place, with what its index entry says of its context."""
        begin, meta = len(self._before), info.meta
        return ReusedChunk(
            begin, begin + meta.tokens, meta.chunk_key, meta.variant, sources=meta.sources, intra=meta.intra
        )


def best(
    infos: Iterable[ObjectInfo], place: Place, tokens: int, point: OperatingPoint, order: Sequence[str]
) -> Found | None:
    """The best of a chunk's objects: by context first, then in the form that is asked for, then the latest used.

    Of several contexts of one name, where the attention to them was kept, the one that is most like the prompt comes
    before form and use: that with the lowest overhead CFO (see `policies/overhead.py`).

    Args:
        infos: objects with the chunk's key, the most recently used first.
        place: where the chunk is.
        tokens: its length; objects that say otherwise are left out.
        point: what is asked for. A lossless object serves every level.
        order: contexts, the best first; others are left out.
    """
    found: list[tuple[int, int, Found]] = []
    for info in infos:
        if info.meta.tokens != tokens or info.meta.form not in (point.form, LOSSLESS):
            continue
        context = place.context(info)
        if context in order:
            read = point if info.meta.form == point.form else LOSSLESS_POINT
            found.append((order.index(context), int(read is not point), Found(info, context, read)))
    if not found:
        return None
    nearest = min(context for context, _, _ in found)
    by_form = sorted((entry for entry in found if entry[0] == nearest), key=lambda entry: entry[1])
    candidates = [candidate for _, _, candidate in by_form]
    if order[nearest] == EXACT:
        return candidates[0]
    chunks = [place.reused(candidate.info) for candidate in candidates]
    return candidates[chunks.index(best_variant(chunks, place.order))]
