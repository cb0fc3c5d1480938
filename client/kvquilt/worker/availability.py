"""Whether the router answers: one call that finds it gone is enough, then it is left alone until a probe reaches it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from kvquilt.worker.types import WorkerOptions
from kvquilt_codec.errors import DeadlineError, KvquiltError, UnavailableError
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes.breaker import BreakerState, CircuitBreaker


class Availability:
    """Used in one event loop.

    No request is a probe: whoever is served shall not wait for a router that is gone.

    Args:
        probe: asks the router something small, within the seconds given.
        options: see there.
        counters: counts losses and returns.
    """

    def __init__(self, probe: Callable[[float], Awaitable[object]], options: WorkerOptions, counters: Counters) -> None:
        self._probe = probe
        self._options = options
        self._counters = counters
        self._breaker = CircuitBreaker(
            time.monotonic, threshold=1, first_wait=options.probe_first, last_wait=options.probe_last
        )
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def here(self) -> bool:
        """Whether calls may be made."""
        return self._breaker.state is BreakerState.CLOSED

    def lost(self) -> None:
        """A call found no router, or one that said nothing in time."""
        if self._breaker.failed():
            self._counters.add("router_lost")
        if not self._closed and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probed())

    async def _probed(self) -> None:
        while not self.here:
            await asyncio.sleep(self._breaker.seconds_left)
            if not self._breaker.allow():
                continue
            try:
                await asyncio.wait_for(self._probe(self._options.probe_deadline), self._options.probe_deadline + 1)
            except (UnavailableError, DeadlineError, TimeoutError):
                self._breaker.failed()
                continue
            except KvquiltError:
                pass  # A router that refuses is there: what it says to the next call is that call's matter.
            self._breaker.succeeded()
        self._counters.add("router_found")

    async def close(self) -> None:
        """Probe no more, though calls that end now find the router gone."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
