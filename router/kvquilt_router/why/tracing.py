"""What cache nodes know of missed chunks: of this model and namespace, then of other models, then of other namespaces.

Which keys are asked for depends on the request, on the models that the nodes hold and on what the caller may read, and
on nothing that anybody else has stored. What another tenant has stored is therefore the same to a caller as what
nobody has, in content and in the work that is done.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.identity import Namespace, chunk_key, context_digest
from kvquilt_codec.traces import ChunkPlace, Departed
from kvquilt_router.planning import Planner
from kvquilt_router.why.types import ChunkRecord, RequestRecord
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.nodes import CacheNodes

MAX_MODELS = 16
MAX_NAMESPACES = 64
"""Of either, those that are looked through for one request."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A chunk's key for another model, or in another namespace."""

    place: ChunkPlace
    model: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """What is known of a missed chunk.

    Attributes:
        place: what was looked up.
        objects: of its text in its namespace for its model, after any shared prefix.
        departed: the last one that left this place.
        elsewhere: objects of its text for other models and in other namespaces.
    """

    place: ChunkPlace
    objects: Sequence[ObjectInfo]
    departed: Departed | None
    elsewhere: Sequence[tuple[Elsewhere, ObjectInfo]]


async def traced(
    nodes: CacheNodes,
    planner: Planner,
    record: RequestRecord,
    missed: Sequence[ChunkRecord],
    readable: Sequence[Namespace],
    *,
    deadline: float,
) -> list[Traced]:
    """What the nodes know of some chunks of a request.

    Args:
        nodes: that are asked.
        planner: of the request's namespace.
        record: of the request.
        missed: those chunks.
        readable: further namespaces that the caller may read.
        deadline: seconds for each question: one about the chunks themselves, one for each namespace.

    Raises:
        KvquiltError: no node answered.
    """
    places = [place_of(record, chunk) for chunk in missed]
    own = await nodes.traces.trace(list(dict.fromkeys(places)), deadline=deadline)
    models = sorted(own.models - {planner.fingerprint})[:MAX_MODELS]
    keys = await asyncio.to_thread(_elsewhere, planner, missed, places, models, readable[:MAX_NAMESPACES])
    # A node tells each namespace of its own objects and public ones: the questions about others are asked in them.
    asked: dict[str, dict[ChunkPlace, None]] = {planner.namespace.name: {}}
    for other in (other for others in keys for other in others):
        asked.setdefault(other.namespace or planner.namespace.name, {})[other.place] = None
    objects: dict[bytes, list[ObjectInfo]] = {}
    for space, own_places in asked.items():
        with acting_in(space):
            objects |= (await nodes.traces.trace(list(own_places), deadline=deadline)).objects
    return [
        Traced(
            place,
            own.objects.get(place.chunk_key, ()),
            own.departed.get(place),
            [(where, info) for where in others for info in objects.get(where.place.chunk_key, ())],
        )
        for place, others in zip(places, keys, strict=True)
    ]


def place_of(record: RequestRecord, chunk: ChunkRecord) -> ChunkPlace:
    """What is looked up of a chunk: a part of the shared prefix after the part before it."""
    end = record.prefix if chunk.ref.segment else chunk.ref.begin
    return ChunkPlace(chunk.ref.chunk_key, context_digest(record.token_ids[:end]))


def _elsewhere(
    planner: Planner,
    missed: Sequence[ChunkRecord],
    places: Sequence[ChunkPlace],
    models: Sequence[str],
    readable: Sequence[Namespace],
) -> list[list[Elsewhere]]:
    found = []
    for chunk, place in zip(missed, places, strict=True):
        here, tokens = planner.namespace_of(chunk.ref.public), chunk.ref.token_ids
        names: Mapping[str, Namespace] = {space.name: space for space in (planner.namespace, *readable)}
        keys = [(chunk_key(here, model, tokens), model, "") for model in models]
        keys += [
            (chunk_key(space, planner.fingerprint, tokens), "", space.name)
            for space in names.values()
            if space.name != here.name
        ]
        found.append([Elsewhere(ChunkPlace(key, place.prefix_digest), *where) for key, *where in keys])
    return found
