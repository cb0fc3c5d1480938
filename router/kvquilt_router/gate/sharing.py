"""What audits found, shared with other routers through the nodes, which keep it."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from kvquilt_codec.errors import KvquiltError, UnavailableError
from kvquilt_codec.gate.audits import Key
from kvquilt_router.gate.held import HeldGate
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_files import AuditsHeard
from kvquilt_rpc.nodes import CacheNodes

log = logging.getLogger(__name__)

PERIOD = 15.0
"""Seconds between two exchanges, a quarter more or less: within 20 a router knows what another one withdrew."""
_SPREAD = 0.25
_FIRST_DELAY = 0.25
_UNHEARD_DELAY = 2.0
"""Longest wait for the next attempt of a router that has heard nothing yet, and blends nothing until it has."""


class AuditSharing:
    """Exchanges what is known of a gate's audits with all nodes: regularly, and at once when a point is withdrawn.

    Args:
        nodes: that keep it.
        held: whose audits they are.
        counters: of the router.
        deadline: seconds that an exchange may take.
        period: seconds between two.
        draw: uniform numbers in 0..1.
    """

    def __init__(
        self,
        nodes: CacheNodes,
        held: HeldGate,
        counters: Counters,
        *,
        deadline: float,
        period: float = PERIOD,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._nodes = nodes
        self._held = held
        self._counters = counters
        self._deadline = deadline
        self._period = period
        self._draw = draw
        self._said = ""

    async def exchange(self, deadline: float | None = None) -> AuditsHeard:
        """Give the nodes what this router knows, and learn what they know.

        Raises:
            UnavailableError: there is no gate.
            KvquiltError: no node answers.
        """
        audits = self._held.audits
        if audits is None:
            raise UnavailableError("expected a gate, whose audits are shared; there is none")
        try:
            heard = await self._nodes.audits.merge(audits.state, deadline=deadline or self._deadline)
        except KvquiltError:
            self._counters.add("audits_unshared")
            raise
        found, told = audits.hear(heard.state)
        for key in found:
            self._held.withdrew(key, self._counters)
        if told:
            log.error("withdrawn, since another router's audits exceed what was measured: %s", _named(told))
        self._tell(heard)
        return heard

    async def run(self) -> None:
        """Exchange until cancelled; what fails is tried again."""
        delay = _FIRST_DELAY
        while True:
            self._held.urgent.clear()
            if self._held.audits is None:
                await self._held.urgent.wait()
                continue
            if not await self._exchanged():
                await asyncio.sleep(self._spread(delay))
                delay = min(2 * delay, self._period if self._held.heard else _UNHEARD_DELAY)
                continue
            delay = _FIRST_DELAY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._spread(self._period)):
                    await self._held.urgent.wait()

    async def _exchanged(self) -> bool:
        try:
            await self.exchange()
        except KvquiltError as error:
            self._say(f"what audits found is not shared, and tried again: {error}")
        except Exception:
            # As in the auditor: without further exchanges a router would serve what others withdrew.
            log.exception("what audits found is not shared, and tried again")
        else:
            return True
        return False

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + _SPREAD * (2 * self._draw() - 1))

    def _tell(self, heard: AuditsHeard) -> None:
        if heard.damaged:
            self._counters.add("audits_damaged", heard.damaged)
            log.error(
                "%d records of audits were damaged or lost on nodes: what they withdrew is used again where no router "
                "knows of it",
                heard.damaged,
            )
        if heard.unstored:
            self._counters.add("audits_unstored", len(heard.unstored))
            self._say(f"what audits found is not kept by {len(heard.unstored)} nodes: {heard.unstored[0]}")
        else:
            self._said = ""

    def _say(self, what: str) -> None:
        # Once: it may stay so for days.
        log.log(logging.DEBUG if what == self._said else logging.WARNING, "%s", what)
        self._said = what


def _named(keys: list[Key]) -> str:
    return "; ".join(f"{policy} {ratio:.0%} {context} {level}" for policy, ratio, context, level in keys)
