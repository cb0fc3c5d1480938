"""Which stored variant of a chunk serves a prompt best. Pure computation."""

from collections.abc import Iterable, Sequence

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import context_digest
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import TokenIds, VariantKind
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
    """

    def __init__(self, before: TokenIds, prefix: bytes, previous: bytes | None) -> None:
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


def best(
    infos: Iterable[ObjectInfo], place: Place, tokens: int, point: OperatingPoint, order: Sequence[str]
) -> Found | None:
    """The best of a chunk's objects: by context first, then in the form that is asked for, then the latest used.

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
    return min(found, key=lambda entry: entry[:2])[2] if found else None
