"""The objects of several nodes: each node lists its own; of those that share their stores one lists all."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from kvquilt_rpc.node_objects import ListedPage
from kvquilt_rpc.nodes.routing import Routing


class PoolObjects:
    """The objects of all nodes; see `StoredObjects`."""

    def __init__(self, routing: Routing, *, shared: bool) -> None:
        self._routing = routing
        self._shared = shared

    async def pages(self, namespace: str = "", *, deadline: float) -> AsyncGenerator[tuple[str, ListedPage], None]:
        """See `StoredObjects`."""
        end = time.monotonic() + deadline
        if self._shared:
            members = [self._routing.anywhere(self._routing.usable())[0]]
        else:
            self._routing.usable()  # or there is no node at all
            members = sorted(self._routing.members.values(), key=lambda member: member.site.name)
        for member in members:
            left = max(0.0, end - time.monotonic())
            with member.judged(), member.busy():
                async with aclosing(member.client.objects.pages(namespace, deadline=left)) as pages:
                    async for page in pages:
                        yield member.site.name, page
