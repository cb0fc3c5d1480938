"""Finding out why something was missed, on several nodes: all that answer are asked, since any may know."""

from collections.abc import Sequence
from dataclasses import replace

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.container import Description
from kvquilt_codec.traces import ChunkPlace, Departed, Trace
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.attempts import Attempts, Call, answers
from kvquilt_rpc.nodes.refs import ObjectRef
from kvquilt_rpc.nodes.routing import Routing


class PoolTraces:
    """See `StoredTraces`.

    Args:
        most: of nodes with stores of their own so many are asked.
        shared: any node knows of all.
    """

    def __init__(self, attempts: Attempts, routing: Routing, *, most: int, shared: bool) -> None:
        self._attempts = attempts
        self._routing = routing
        self._most = 1 if shared else most

    async def trace(self, places: Sequence[ChunkPlace], *, deadline: float) -> Trace:
        """See `StoredTraces`."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> Trace:
            found = await client.traces.trace(places, deadline=seconds)
            named = {key: [replace(i, node=client.target) for i in infos] for key, infos in found.objects.items()}
            return replace(found, objects=named)

        members = self._routing.anywhere(self._routing.usable())[: self._most]
        return merged(answers(await self._attempts.each(members, Call("trace", work), deadline)))

    async def describe(self, ref: ObjectRef, model_fingerprint: str, *, deadline: float) -> Description:
        """See `StoredTraces`."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> Description:
            return await client.traces.describe(ref.key, model_fingerprint, deadline=seconds)

        order = self._routing.objects(ref, self._routing.usable())
        (answer,) = await self._attempts.ask({ref.key: order}, Call("describe", work), deadline)
        return answer.given


def merged(found: Sequence[Trace]) -> Trace:
    """What several nodes know, as one; of several departures the latest."""
    objects: dict[bytes, list[ObjectInfo]] = {}
    departed: dict[ChunkPlace, Departed] = {}
    for trace in found:
        for key, infos in trace.objects.items():
            objects.setdefault(key, []).extend(infos)
        for place, departure in trace.departed.items():
            departed[place] = max(departed.get(place, departure), departure, key=lambda one: one.at)
    for infos in objects.values():
        infos.sort(key=lambda info: (-info.last_used, info.key))
    return Trace(objects, departed, frozenset().union(*(trace.models for trace in found)))
