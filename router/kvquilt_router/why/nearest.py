"""The stored chunks that are nearest to missed ones: found beside them in the request, or by fingerprints."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.fingerprints import Fingerprint, fingerprints
from kvquilt_codec.identity import Namespace, chunk_key
from kvquilt_codec.traces import ChunkPlace
from kvquilt_codec.types import TokenIds
from kvquilt_router.planning import Planner
from kvquilt_router.why.comparing import Text, compared, edit
from kvquilt_router.why.types import Explanation, RequestRecord
from kvquilt_rpc.nodes import CacheNodes, ObjectRef

CANDIDATES = 4
"""Stored chunks that a missed one is compared with, those with the most fingerprints in common first."""
SHIFTS = 8
MAX_READ = 64
"""Stored chunks whose tokens are read for one request."""
MAX_FINGERPRINTS = 1 << 16
NEVER = Explanation("never_stored")
TOO_MANY = Explanation("undetermined", detail="too_many_chunks")

Part = tuple[ObjectInfo, int, int]
"""A stored chunk, and from where to where in it a run of the prompt was served from it."""
Shifts = Mapping[bytes, Counter[int]]
"""By chunk key, how many fingerprints say that the stored chunk begins so far into the missed one."""


class Nearest:
    """Compares the missed text of one request with what is stored.

    Args:
        nodes: that are asked.
        planner: of the request's namespace.
        text: token ids as text.
        record: of the request.
        deadline: seconds for each question.
    """

    def __init__(
        self, nodes: CacheNodes, planner: Planner, text: Text, record: RequestRecord, *, deadline: float
    ) -> None:
        self._nodes = nodes
        self._planner = planner
        self._text = text
        self._record = record
        self._deadline = deadline
        self._read: dict[bytes, TokenIds | None] = {}

    async def explain(self, numbers: Sequence[int]) -> dict[int, Explanation]:
        """What the nearest stored text tells of missed chunks; `never_stored` where nothing near is stored.

        Raises:
            KvquiltError: no node answered.
        """
        found = {number: await self._beside(number) for number in numbers}
        rest = [number for number, explanation in found.items() if explanation is None]
        found |= await self._by_fingerprints(rest)
        return {number: explanation or NEVER for number, explanation in found.items()}

    async def _beside(self, number: int) -> Explanation | None:
        """Where a missed run is what an edit put before, between or after parts of a stored chunk."""
        before, after = (self._part(number, step) for step in (-1, 1))
        if before is not None and after is not None and before[0].key == after[0].key:
            info, begin, end = before[0], before[2], after[1]
        elif before is not None and before[2] < before[0].meta.tokens:
            info, begin, end = before[0], before[2], None
        elif after is not None and after[1] > 0:
            info, begin, end = after[0], 0, after[1]
        else:
            return None  # a whole chunk, or nothing: what is beside it is another text
        stored = await self._tokens(info)
        if stored is None:
            return None
        ref = self._record.chunks[number].ref
        return edit(self._record.token_ids, ref.begin, ref.end, stored, begin, end, self._text)

    def _part(self, number: int, step: int) -> Part | None:
        if not 0 <= number + step < len(self._record.chunks):
            return None
        beside = self._record.chunks[number + step]
        if beside.source is None or beside.ref.segment != self._record.chunks[number].ref.segment:
            return None
        info, begin = beside.source
        return info, begin, begin + len(beside.ref.token_ids)

    async def _by_fingerprints(self, numbers: Sequence[int]) -> dict[int, Explanation | None]:
        if not numbers:
            return {}
        own = await asyncio.to_thread(self._fingerprints, numbers)
        places = [(number, offset) for number, prints in own.items() for offset, _ in prints]
        shifts: dict[int, dict[bytes, Counter[int]]] = {number: {} for number in numbers}
        digests = [digest for prints in own.values() for _, digest in prints]
        for match in await self._nodes.find_chunks(digests, self._planner.fingerprint, deadline=self._deadline):
            number, offset = places[match.fingerprint]
            shifts[number].setdefault(match.chunk_key, Counter())[offset - match.offset] += 1
        ranked = {number: _ranked(found) for number, found in shifts.items()}
        keys = dict.fromkeys(key for own_keys in ranked.values() for key in own_keys)
        # The prefix does not matter here: objects are found after any.
        asked = [ChunkPlace(key, bytes(32)) for key in keys]
        objects = (await self._nodes.traces.trace(asked, deadline=self._deadline)).objects if asked else {}
        return {
            number: await self._nearest(number, shifts[number], [objects[key][0] for key in own_keys if key in objects])
            for number, own_keys in ranked.items()
        }

    def _fingerprints(self, numbers: Sequence[int]) -> dict[int, list[Fingerprint]]:
        found: dict[int, list[Fingerprint]] = {}
        room = MAX_FINGERPRINTS
        for number in numbers:
            ref = self._record.chunks[number].ref
            namespace = self._planner.namespace_of(ref.public)
            found[number] = fingerprints(namespace, self._planner.fingerprint, ref.token_ids)[:room]
            room -= len(found[number])
        return found

    async def _nearest(self, number: int, shifts: Shifts, infos: Sequence[ObjectInfo]) -> Explanation | None:
        """What the stored chunk tells that has the longest run in common."""
        ref = self._record.chunks[number].ref
        if infos and all(info.key not in self._read for info in infos) and len(self._read) >= MAX_READ:
            return TOO_MANY
        best: Explanation | None = None
        for info in infos:
            stored = await self._tokens(info)
            if stored is None:
                continue
            along = tuple(shift for shift, _ in shifts[info.meta.chunk_key].most_common(SHIFTS))
            told = compared(self._record.token_ids, ref.begin, ref.end, stored, self._text, along)
            if told is not None and (best is None or _same_tokens(told) > _same_tokens(best)):
                best = told
        return best

    async def _tokens(self, info: ObjectInfo) -> TokenIds | None:
        """A stored chunk's tokens; `None`: it is gone, damaged, or there were too many."""
        if info.key not in self._read and len(self._read) < MAX_READ:
            try:
                found = await self._nodes.traces.describe(
                    ObjectRef.of(info), self._planner.fingerprint, deadline=self._deadline
                )
            except KvquiltError:
                self._read[info.key] = None
            else:
                self._read[info.key] = found.token_ids if self._may_be_shown(info, found.token_ids) else None
        return self._read.get(info.key)

    def _may_be_shown(self, info: ObjectInfo, tokens: TokenIds) -> bool:
        """Whether a text has a key of the caller's namespace or the public one: whatever a node sends, no other is."""
        spaces = (self._planner.namespace, Namespace.public())
        return any(chunk_key(space, self._planner.fingerprint, tokens) == info.meta.chunk_key for space in spaces)


def _ranked(shifts: Shifts) -> list[bytes]:
    return sorted(shifts, key=lambda key: (-shifts[key].total(), key))[:CANDIDATES]


def _same_tokens(told: Explanation) -> int:
    return told.divergence.divergence.same_tokens if told.divergence is not None else 0
