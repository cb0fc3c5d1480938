"""Audits: a sampled share of blends is compared with a full prefill, in the background."""

import asyncio
import logging
from collections.abc import Callable

from kvquilt_codec.errors import KvquiltError
from kvquilt_router.blending import Blended
from kvquilt_router.engine import Engine
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.evaluation.judge import Divergence, Reference, teacher_forced
from kvquilt_router.evaluation.types import EMPTY, Case
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.metrics.meter import RouterMeter
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)

Told = Callable[[float], None]
"""Is told the divergence that an audit found, in nats."""

WAITING = 2
"""Blends that wait for their audit; each keeps its prompt's whole KV in memory."""


class Auditor:
    """Audits blends of one model.

    Args:
        meter: told of what audits find.
        share: of the blends that rest on a measured point.
        chance: gives numbers in 0..1 that decide which.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        gate: HeldGate,
        counters: Counters,
        *,
        share: float,
        meter: RouterMeter,
        chance: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._gate = gate
        self._counters = counters
        self._share = share
        self._meter = meter
        self._chance = chance
        self._queue: asyncio.Queue[tuple[Blended, Told]] = asyncio.Queue(WAITING)

    @property
    def waiting(self) -> int:
        """Blends that wait for their audit."""
        return self._queue.qsize()

    def offer(self, blended: Blended, told: Told) -> None:
        """Perhaps audit this blend later, if it used stored documents: what was computed proves nothing."""
        used = any(outcome.found is not None and outcome.ref.segment for outcome in blended.report.chunks)
        if not (used and blended.report.decision.points) or self._chance() >= self._share:
            return
        try:
            self._queue.put_nowait((blended, told))
        except asyncio.QueueFull:
            self._counters.add("audits_dropped")

    async def run(self) -> None:
        """Audit what waits, while no request wants the engine; runs until cancelled."""
        while True:
            blended, told = await self._queue.get()
            try:
                divergence = await self._thread.run_spare(self._measure, blended)
                self._record(blended, divergence)
                told(divergence.kl)
            except KvquiltError as error:
                log.warning("an audit failed: %s", error)
            except Exception:
                # As in the background's store: the next one must still be audited.
                log.exception("an audit failed")
            finally:
                self._queue.task_done()

    async def settle(self) -> None:
        """Wait until nothing waits."""
        await self._queue.join()

    def _measure(self, blended: Blended) -> Divergence:
        reference = Reference.of(self._engine, Case("audit", "audit", blended.prompt, EMPTY))
        layers = blended.assembly.kv.layers
        scores = teacher_forced(self._engine, blended.prompt.token_ids, reference.answer, layers)
        return Divergence.between(reference.scores, scores)

    def _record(self, blended: Blended, divergence: Divergence) -> None:
        decision = blended.report.decision
        self._counters.add("audits")
        self._meter.audited(blended.report, divergence.kl)
        if self._gate.audits is None or decision.predicted_kl is None:
            return
        if divergence.kl > decision.predicted_kl:
            self._counters.add("audits_exceeded")
            log.warning("an audit found KL %.3g, predicted below %.3g", divergence.kl, decision.predicted_kl)
        if self._gate.audits.record(decision.points[0], divergence.kl):
            self._gate.withdrew(decision.points[0].key, self._counters)
