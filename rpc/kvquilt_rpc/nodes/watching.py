"""Keeps the members of a pool current: who they are, and whether they serve."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence

from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.member import Member
from kvquilt_rpc.nodes.membership import Membership, Resolve
from kvquilt_rpc.nodes.placement import Site
from kvquilt_rpc.nodes.routing import Routing
from kvquilt_rpc.nodes.types import PoolOptions
from kvquilt_rpc.security import Credentials

log = logging.getLogger(__name__)


class Watch:
    """Gives a pool's routing its members; arguments are as in `open_nodes`."""

    def __init__(
        self,
        addresses: Sequence[str],
        routing: Routing,
        options: PoolOptions,
        counters: Counters,
        credentials: Credentials,
        resolver: Resolve,
    ) -> None:
        self._routing = routing
        self._options = options
        self._counters = counters
        self._credentials = credentials
        self._membership = Membership(addresses, self._changed, every=options.resolve_seconds, resolver=resolver)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Find the members, and begin to look again."""
        await self._membership.refresh()
        self._spawn(self._probe())
        if not self._membership.fixed:
            self._spawn(self._membership.run())

    async def close(self) -> None:
        """Look no more, and close the members' clients."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.client.close() for member in self._routing.members.values()))

    def _changed(self, sites: Sequence[Site]) -> None:
        before = self._routing.members
        now: dict[str, Member] = {}
        for site in sites:
            member = before.get(site.name)
            if member is None:
                client = NodeClient(site.name, self._credentials, site.host)
                member = Member(site, client, self._options, self._counters, time.monotonic)
            member.site = site
            now[site.name] = member
        self._routing.members = now
        if self._tasks:
            self._counters.add("nodes_changed")
        log.info("the cache nodes are %s", ", ".join(now) or "none")
        for name in before.keys() - now.keys():
            self._spawn(before[name].retire())

    async def _probe(self) -> None:
        """Ask the health of all members again and again; runs until cancelled."""
        while True:
            await asyncio.sleep(self._options.health_seconds)
            members = self._routing.members.values()
            await asyncio.gather(*(member.probe(self._options.health_seconds) for member in members))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
