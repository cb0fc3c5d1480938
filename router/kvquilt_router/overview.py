"""What a router tells of itself: models, nodes, queues, sums, and the requests that were served lately."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from kvquilt_codec.errors import BadRequestError
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router import answers
from kvquilt_router.auditing import WAITING
from kvquilt_router.node_wire import node_message
from kvquilt_router.policies import POLICIES
from kvquilt_router.served import ServedModel
from kvquilt_router.settings import RouterSettings
from kvquilt_router.why.records import unknown
from kvquilt_router.why.served_wire import request_message
from kvquilt_router.why.types import RequestRecord
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes import CacheNodes
from kvquilt_rpc.version import VERSION

MAX_REQUESTS = 256
REQUESTS = 32
"""Requests of a list by default."""


class Overview:
    """Tells callers what they may know: figures of all namespaces together, and other namespaces, are not among it."""

    def __init__(
        self, served: Sequence[ServedModel], nodes: CacheNodes, settings: RouterSettings, counters: Counters
    ) -> None:
        self._served = served
        self._nodes = nodes
        self._settings = settings
        self._counters = counters

    def models(self) -> list[pb.Model]:
        """The models."""
        return [answers.model_message(served.loaded, served.profile, served.gate) for served in self._served]

    async def status(self, identity: Identity) -> pb.GetStatusResponse:
        """How router and nodes are."""
        overall = identity.may_see_all
        sums = self._usage(None if overall else identity.namespaces)
        states = await self._nodes.states(deadline=self._settings.stat_deadline)
        return pb.GetStatusResponse(
            version=VERSION,
            models=self.models(),
            policies=list(POLICIES),
            default_policy=self._settings.policy,
            default_recompute_ratio=self._settings.recompute_ratio,
            default_level=self._settings.level,
            default_max_kl=self._settings.max_kl,
            ungated=self._settings.ungated,
            # What all tenants do together would tell each of them what the others do.
            counters=self._counters.snapshot() if overall else None,
            nodes=(node_message(state, overall) for state in states),
            usage=(pb.NamespaceUsage(namespace=name, counters=own) for name, own in sums.items()),
            queues=self._queues() if overall else None,
            unix_seconds=time.time(),
        )

    def requests(self, identity: Identity, request_id: str = "", limit: int = 0) -> pb.ListRequestsResponse:
        """The latest requests, or one of them with its chunks.

        Raises:
            NotFoundError: there is no such request, or none that the caller may see.
            BadRequestError: a limit beyond `MAX_REQUESTS`.
        """
        if limit > MAX_REQUESTS:
            raise BadRequestError(f"expected a limit of at most {MAX_REQUESTS} requests; got {limit}")
        if request_id:
            served, namespace, record = self.request(identity, request_id)
            message = request_message(record, served.loaded.name, namespace, whole=True)
            return pb.ListRequestsResponse(requests=[message])
        found = [
            (record, served.loaded.name, namespace)
            for served in self._served
            for namespace, tenant in served.tenants.seen_by(identity).items()
            for record in tenant.requests.latest(limit or REQUESTS)
        ]
        found.sort(key=lambda item: item[0].at or 0.0, reverse=True)
        return pb.ListRequestsResponse(requests=(request_message(*item) for item in found[: limit or REQUESTS]))

    def request(self, identity: Identity, request_id: str) -> tuple[ServedModel, str, RequestRecord]:
        """One request: its model, its namespace and its record.

        Raises:
            NotFoundError: as in `requests`.
        """
        for served in self._served:
            for namespace, tenant in served.tenants.seen_by(identity).items():
                if (record := tenant.requests.find(request_id)) is not None:
                    return served, namespace, record
        raise unknown(request_id)

    def _queues(self) -> Iterator[pb.Queue]:
        for served in self._served:
            waiting = len(served.background.waiting())
            yield pb.Queue(name="background", length=waiting, limit=self._settings.background_queue)
            yield pb.Queue(name="audits", length=served.auditor.waiting, limit=WAITING)
            for slots in served.slots:
                yield pb.Queue(name=slots.name, length=slots.waiting, limit=slots.most_waiting)
            yield pb.Queue(name="saves", length=served.taker.held_bytes, limit=int(self._settings.save_bytes))

    def _usage(self, namespaces: Sequence[str] | None) -> dict[str, dict[str, int]]:
        """Sums of namespaces (`None`: of all) over the models."""
        sums: dict[str, Counter[str]] = {}
        for served in self._served:
            for name, own in served.usage.snapshot(namespaces).items():
                sums.setdefault(name, Counter()).update(own)
        return {name: dict(own) for name, own in sums.items()}
