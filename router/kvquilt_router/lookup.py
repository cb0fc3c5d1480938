"""Finds what the cache holds of a prompt: by the chunks that its segments are cut into, in the context order asked for.

What fails here becomes a miss with a reason; a request never fails for it.
"""

import asyncio
from collections.abc import Sequence

from kvquilt_codec import errors
from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.identity import context_digest
from kvquilt_codec.types import TokenIds
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.misses import unanswered
from kvquilt_router.planning import Planner
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.types import ChunkOutcome, ChunkRef, Prompt
from kvquilt_router.variants import Place, best
from kvquilt_rpc.nodes import CacheNodes, VariantsFound

VARIANTS_PER_CHUNK = 32


class Lookup:
    """Looks up chunks of one model on the cache nodes."""

    def __init__(self, nodes: CacheNodes, planner: Planner, profile: ModelProfile, *, deadline: float) -> None:
        self._nodes = nodes
        self._planner = planner
        self._profile = profile
        self._deadline = deadline

    async def look_up(self, prompt: Prompt, refs: Sequence[ChunkRef], order: Sequence[str]) -> list[ChunkOutcome]:
        """The best stored variant of each chunk.

        Args:
            prompt: whose chunks they are.
            refs: ascending.
            order: contexts that may be used, the best first.
        """
        try:
            own = [ref for ref in refs if ref.segment == 0]
            stored = await asyncio.gather(
                self._variants([ref for ref in refs if ref.segment], context_digest(prompt.prefix)),
                *(self._variants([ref], context_digest(prompt.prefix[: ref.begin])) for ref in own),
            )
        except errors.KvquiltError as error:
            return [ChunkOutcome(ref, miss_reason=unanswered(error)) for ref in refs]
        by_key: dict[tuple[bytes, bool], list[ObjectInfo]] = {}
        failed: dict[tuple[bytes, bool], str] = {}
        for number, found in enumerate(stored):
            by_key |= {(key, number > 0): infos for key, infos in found.objects.items()}
            failed |= {(key, number > 0): unanswered(error) for key, error in found.failed.items()}
        tokens = prompt.token_ids
        outcomes = []
        for number, ref in enumerate(refs):
            key = (ref.chunk_key, ref.segment == 0)
            if key in failed:
                outcomes.append(ChunkOutcome(ref, miss_reason=failed[key]))
            else:
                outcomes.append(self._outcome(tokens, prompt, refs, number, by_key.get(key, []), order))
        return outcomes

    async def _variants(self, refs: Sequence[ChunkRef], prefix: bytes) -> VariantsFound:
        keys = list(dict.fromkeys(ref.chunk_key for ref in refs))
        return await self._nodes.find_variants(
            keys, self._planner.fingerprint, prefix, deadline=self._deadline, limit=VARIANTS_PER_CHUNK
        )

    def _outcome(
        self,
        tokens: TokenIds,
        prompt: Prompt,
        refs: Sequence[ChunkRef],
        number: int,
        infos: Sequence[ObjectInfo],
        order: Sequence[str],
    ) -> ChunkOutcome:
        ref = refs[number]
        unreadable = self._profile.miss_reason
        readable = [info for info in infos if not (unreadable and info.meta.form.profile_digest)]
        known = [(other.chunk_key, other.begin) for other in refs]
        place = Place(tokens[: ref.begin], context_digest(prompt.prefix), _previous(refs, number), known)
        if ref.segment == 0:
            # The same text may be stored as a document of an application with a shorter prefix: no attention sinks.
            order = (EXACT,)
        found = best(readable, place, len(ref.token_ids), ref.point, order)
        if found is not None:
            return ChunkOutcome(ref, found)
        if unreadable and ref.point.form.profile_digest:
            return ChunkOutcome(ref, miss_reason=unreadable)
        return ChunkOutcome(ref, miss_reason="not_stored")


def _previous(refs: Sequence[ChunkRef], number: int) -> bytes | None:
    """Key of the chunk that ends where this one begins; none for the first after the shared prefix."""
    if number == 0 or refs[number - 1].segment == 0 or refs[number - 1].end != refs[number].begin:
        return None
    return refs[number - 1].chunk_key
