"""One node of several: its client, and what its calls and probes have told of it."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvquilt_codec.errors import DeadlineError, KvquiltError, UnavailableError
from kvquilt_proto.v1 import cache_node_pb2
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.breaker import BreakerState, CircuitBreaker
from kvquilt_rpc.nodes.placement import Site
from kvquilt_rpc.nodes.throttle import Throttle
from kvquilt_rpc.nodes.types import NodeState, PoolOptions

log = logging.getLogger(__name__)

NO_ANSWER = (UnavailableError, DeadlineError)
"""What says something of the node, and not of what was asked: another node may do better."""
_LAST_CALLS = 60.0
"""Seconds that the running calls of a node get that is no member any more."""


class Member:
    """A node that belongs to a pool.

    Attributes:
        site: its place.
        client: calls it.
        breaker: whether it may be called.
        serving: what its health service said last.
        outstanding: calls that run now.
        calls: since it came.
        failures: of those, calls without an answer.
        spared: calls that were not made, because it refuses most of their kind.
        round_trip_seconds: what the latest probe took that was answered.
    """

    def __init__(
        self, site: Site, client: NodeClient, options: PoolOptions, counters: Counters, clock: Callable[[], float]
    ) -> None:
        self.site = site
        self.client = client
        self.breaker = CircuitBreaker(
            clock,
            threshold=options.breaker_threshold,
            first_wait=options.breaker_wait,
            last_wait=options.breaker_last_wait,
        )
        self._options = options
        self._clock = clock
        self._throttles: dict[str, Throttle] = {}
        self._counters = counters
        self._idle = asyncio.Event()
        self._idle.set()
        self.serving = True
        self.outstanding = 0
        self.calls = 0
        self.failures = 0
        self.spared = 0
        self.round_trip_seconds: float | None = None

    @property
    def available(self) -> bool:
        """Whether requests are to go to it."""
        return self.serving and self.breaker.state is BreakerState.CLOSED

    def state(self, status: cache_node_pb2.GetNodeStatusResponse | None) -> NodeState:
        """How it is, with what it said of itself."""
        breaker = self.breaker.state.value
        calls = (self.outstanding, self.calls, self.failures)
        return NodeState(self.site.name, self.serving, breaker, *calls, status, self.round_trip_seconds, self.spared)

    def throttle(self, kind: str) -> Throttle:
        """What keeps calls of a kind from it while it refuses most of them."""
        if kind not in self._throttles:
            options = self._options
            self._throttles[kind] = Throttle(
                self.site.name,
                self._clock,
                factor=options.throttle_factor,
                window=options.throttle_seconds,
                spared=self._spared,
            )
        return self._throttles[kind]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A call runs."""
        self.outstanding += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.outstanding -= 1
            if not self.outstanding:
                self._idle.set()

    @contextmanager
    def judged(self, *, had_time: bool = True) -> Iterator[None]:
        """A call is made, and its outcome counts; that it took too long only if it `had_time`.

        Raises:
            UnavailableError: the node is left alone now.
        """
        if not self.breaker.allow():
            raise UnavailableError(
                f"expected node {self.site.name} to answer; it did not lately, and is left alone now"
            )
        self.calls += 1
        try:
            yield
        except NO_ANSWER as error:
            if had_time or isinstance(error, UnavailableError):
                self.failed()
            else:
                self.breaker.abandoned()
            raise
        except KvquiltError:
            self.breaker.succeeded()
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()

    def failed(self) -> None:
        """A call got no answer."""
        self.failures += 1
        if self.breaker.failed():
            self._counters.add("node_breakers_opened")
            log.warning("node %s does not answer: it is left alone for a while", self.site.name)

    def _spared(self) -> None:
        self.spared += 1
        self._counters.add("node_calls_spared")

    async def probe(self, seconds: float) -> None:
        """Ask its health service, unless it is left alone now; this also ends that."""
        try:
            with self.judged():
                began = time.monotonic()
                self.serving = await self.client.serving(deadline=seconds)
                self.round_trip_seconds = time.monotonic() - began
        except KvquiltError as error:
            log.debug("node %s was probed: %s", self.site.name, error)

    async def retire(self) -> None:
        """Close its client when its running calls have ended, or after a minute."""
        try:
            async with asyncio.timeout(_LAST_CALLS):
                await self._idle.wait()
        except TimeoutError:
            log.warning("node %s is no member any more; its last calls are cut off", self.site.name)
        finally:
            await self.client.close()
