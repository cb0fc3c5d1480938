"""Takes a running node out of service without a lost call, and back. SIGTERM does the same, and ends the process."""

import logging
import time
from collections.abc import Callable

from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_codec.errors import BadRequestError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.server import RpcServer

log = logging.getLogger(__name__)

_DONE = {
    pb.DRAIN_ACTION_BEGIN: "the node drains from now on",
    pb.DRAIN_ACTION_UNDO: "the node serves again",
    pb.DRAIN_ACTION_STOP: "the node's process ends",
}


class Drainer:
    """Drains one node. Who did what is logged.

    Args:
        server: of the node.
        counters: of the node; what waits in its write queue is among them.
        stop: ends the process as SIGTERM does; `None`: it is not this node's alone.
        hurry: is on while the node drains.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        server: RpcServer,
        counters: Counters,
        stop: Callable[[], None] | None,
        hurry: Hurry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._counters = counters
        self._stop = stop
        self._hurry = hurry
        self._clock = clock
        self._since: float | None = None

    async def act(self, action: pb.DrainAction.ValueType, identity: Identity, peer: str) -> pb.DrainNodeResponse:
        """Carry out what an operator asks for, and tell how far the node is.

        Args:
            action: see there.
            identity: who asks.
            peer: from where.

        Raises:
            PermissionDeniedError: somebody who may not see all namespaces asks.
            BadRequestError: an action that there is not; to stop a node that does not drain, or whose process is not
                its own.
        """
        identity.check_operator()
        if action not in pb.DrainAction.values():
            raise BadRequestError(f"expected an action of {pb.DrainAction.keys()}; got {action}")
        if action == pb.DRAIN_ACTION_BEGIN and self._since is None:
            self._since = self._clock()
            self._hurry.begin()
            await self._server.set_ready(False)
        elif action == pb.DRAIN_ACTION_UNDO and self._since is not None:
            self._since = None
            self._hurry.end()
            await self._server.set_ready(True)
        elif action == pb.DRAIN_ACTION_STOP:
            self._ended()
        elif action:
            return self._state()
        if action:
            log.warning("%s: asked for by %r from %s", _DONE[action], identity.name, peer)
        return self._state()

    def _ended(self) -> None:
        if self._since is None:
            raise BadRequestError("expected a node that drains; this one serves: drain it first", reason="not_draining")
        if self._stop is None:
            raise BadRequestError(
                "expected a node in a process of its own (`kvquilt node`); this one shares its process: end that",
                reason="shared_process",
            )
        self._stop()

    def _state(self) -> pb.DrainNodeResponse:
        counts, running = self._counters.snapshot(), self._server.running
        drained = 0.0 if self._since is None else self._clock() - self._since
        return pb.DrainNodeResponse(
            draining=self._since is not None,
            running_calls=running.count,
            quiet_seconds=min(drained, running.idle_seconds),
            queue_entries=counts["queue_entries"],
            queue_bytes=counts["queue_bytes"],
        )
