"""One assembly on its way through the engine's thread."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from functools import partial

from kvquilt_router.arriving import Abandoned, Arrivals
from kvquilt_router.assembly import Assembly
from kvquilt_router.engine.kv import LayerTensors, wire_bytes
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.selection import RecomputePolicy, Selection, SelectionProblem
from kvquilt_rpc import spans

log = logging.getLogger(__name__)


class Computation:
    """Merges, selects and computes; begins at once. The layers are given out when they are asked for.

    Args:
        thread: the engine's.
        assembly: what is computed.
        policy: chooses.
        problem: what it chooses from.
        selection: what it chose, if it did already.
        arrivals: the chunks, if they are still on their way; every layer is then merged just before it is needed.

    Attributes:
        assembly, problem: as given.
        began: when this was made, and so are the following: `time.perf_counter`.
        running: when the engine's thread began with it; 0 before that.
        selected: when the choice was made.
        engine_seconds: what the engine took for the recompute, without waiting for layers.
    """

    def __init__(
        self,
        thread: EngineThread,
        assembly: Assembly,
        policy: RecomputePolicy,
        problem: SelectionProblem,
        selection: Selection | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        self.assembly = assembly
        self.problem = problem
        self._selection = selection
        self.began = time.perf_counter()
        self.running = self.selected = self.engine_seconds = 0.0
        self._policy = policy
        self._arrivals = arrivals
        self._loop = asyncio.get_running_loop()
        self._layers: asyncio.Queue[LayerTensors] = asyncio.Queue()
        self._task = asyncio.create_task(thread.run(self._work))

    @property
    def selection(self) -> Selection:
        """What was chosen; only when the layers have been given out."""
        if self._selection is None:
            raise ValueError("expected a computation that is finished")
        return self._selection

    @property
    def waited(self) -> float:
        """Seconds that were spent waiting for layers."""
        return 0.0 if self._arrivals is None else self._arrivals.waited

    def _work(self) -> None:
        self.running = time.perf_counter()
        if self._arrivals is None:
            with spans.span("kvquilt.merge"):
                self.assembly.merge()
        if self._selection is None:
            with spans.span("kvquilt.select", policy=self._policy.name):
                self._selection = self.assembly.select(self._policy, self.problem)
        self.selected, waited = time.perf_counter(), self.waited
        with spans.span("kvquilt.recompute") as recompute:
            with spans.LayerGroups("kvquilt.recompute.layers", len(self.assembly.kv.layers)) as groups:
                self.assembly.compute(self._selection, partial(self._on_layer, groups))
            recompute.set(tokens=len(self.assembly.computed))
        self.engine_seconds = time.perf_counter() - self.selected - (self.waited - waited)

    def _on_layer(self, groups: spans.LayerGroups, index: int, tensors: LayerTensors) -> None:
        groups.done(index)
        self._loop.call_soon_threadsafe(self._layers.put_nowait, tensors)

    async def layers(self, first: int = 0) -> AsyncGenerator[memoryview, None]:
        """Keys and values of each layer in order, each `[kv_heads, tokens, dim]`, while the next ones still compute.

        Args:
            first: tokens before this one are left out.
        """
        sending: spans.Span = spans.NOTHING
        nbytes = 0
        try:
            for index, _ in enumerate(self.assembly.kv.layers):
                tensors = await _next(self._layers, self._task)
                if index == 0:
                    sending = spans.span("kvquilt.send")
                for tensor in (tensors.keys, tensors.values):
                    data = await asyncio.to_thread(wire_bytes, tensor[:, :, first:])
                    nbytes += data.nbytes
                    yield data
        finally:
            sending.set(bytes=nbytes)
            sending.end()
            await self._task

    async def dropped(self) -> None:
        """Wait for the end of what nobody wants any more; its arrivals must have failed, so that it comes soon."""
        (error,) = await asyncio.gather(self._task, return_exceptions=True)
        if error is not None and not isinstance(error, Abandoned | asyncio.CancelledError):
            log.warning("what was computed while chunks arrived is dropped: %s", error)


async def _next(queue: "asyncio.Queue[LayerTensors]", producer: "asyncio.Task[None]") -> LayerTensors:
    """The queue's next item, or the producer's error if it failed before there was one."""
    getter = asyncio.create_task(queue.get())
    await asyncio.wait({getter, producer}, return_when=asyncio.FIRST_COMPLETED)
    if not getter.done() and producer.done() and producer.exception() is not None:
        getter.cancel()
        await producer
    return await getter
