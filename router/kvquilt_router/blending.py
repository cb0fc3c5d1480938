"""One blend, from a prompt's tokens to finished KV: plan, fetch, merge, select, compute, layer by layer out."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np

from kvquilt_codec.types import KVChunk
from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors, wire_bytes
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.fetching import Fetcher
from kvquilt_router.planning import Planner
from kvquilt_router.policies import AnchorPool, policy_by_name
from kvquilt_router.types import (
    BlendOptions,
    BlendReport,
    ChunkOutcome,
    ChunkRef,
    Indices,
    Prompt,
    RecomputePolicy,
    ReusedChunk,
    Selection,
)
from kvquilt_rpc.counters import Counters


class Blender:
    """Blends prompts for one model.

    Args:
        concurrency: blends at once; further ones wait, since each holds a prompt's whole KV.
        anchors: what the policy `anchors` learns; of this model and its namespace alone.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        planner: Planner,
        fetcher: Fetcher,
        counters: Counters,
        *,
        concurrency: int,
        anchors: AnchorPool,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._planner = planner
        self._fetcher = fetcher
        self._counters = counters
        self._anchors = anchors
        self._slots = asyncio.Semaphore(concurrency)

    async def plan(self, prompt: Prompt, options: BlendOptions) -> list[ChunkOutcome]:
        """What a blend would find, without fetching or computing."""
        return await self._fetcher.look_up(self._planner.prompt(prompt, options.point))

    async def blend(self, prompt: Prompt, options: BlendOptions) -> AsyncGenerator[memoryview | BlendReport, None]:
        """Finished KV of all tokens but the last: keys, then values, of each layer in order; then the report.

        Each item of bytes is one tensor `[kv_heads, tokens - 1, dim]`.

        Raises:
            BadRequestError: an empty question or document, an unknown policy, more tokens than the model's context.
        """
        policy = policy_by_name(options.policy, self._anchors)
        refs = self._planner.prompt(prompt, options.point)
        self._engine.check(prompt.token_ids, len(prompt.token_ids))
        async with self._slots, aclosing(self._blend(prompt, options, policy, refs)) as parts:
            async for part in parts:
                yield part

    async def _blend(
        self, prompt: Prompt, options: BlendOptions, policy: RecomputePolicy, refs: Sequence[ChunkRef]
    ) -> AsyncGenerator[memoryview | BlendReport, None]:
        started = time.perf_counter()
        outcomes, chunks = await self._fetcher.fetch(refs)
        fetched = time.perf_counter()
        assembly = Assembly(self._engine, prompt, _placed(outcomes, chunks))
        await self._thread.run(assembly.merge)
        problem = assembly.problem(options.recompute_ratio, options.seed)
        selection = await self._thread.run(assembly.select, policy, problem)
        selected = time.perf_counter()
        async with aclosing(self._computed(assembly, selection)) as tensors:
            async for tensor in tensors:
                yield tensor
        finished = time.perf_counter()
        seconds = {
            "fetch": fetched - started,
            "select": selected - fetched,
            "compute": finished - selected,
            "total": finished - started,
        }
        report = BlendReport(replace(options), outcomes, seconds=seconds)
        self._count_tokens(report, prompt, np.setdiff1d(selection.positions, assembly.missing))
        if selection.deviation is not None:
            report.reused_positions = np.setdiff1d(problem.candidates, selection.positions)
            report.reused_deviations = selection.deviation[report.reused_positions]
        yield report

    async def _computed(self, assembly: Assembly, selection: Selection) -> AsyncGenerator[memoryview, None]:
        """Run the recompute; give each layer's tensors out while the next layers still compute."""
        loop = asyncio.get_running_loop()
        done: asyncio.Queue[LayerTensors] = asyncio.Queue()

        def on_layer(_: int, tensors: LayerTensors) -> None:
            loop.call_soon_threadsafe(done.put_nowait, tensors)

        computing = asyncio.create_task(self._thread.run(assembly.compute, selection, on_layer))
        try:
            for _ in assembly.kv.layers:
                tensors = await _next(done, computing)
                for tensor in (tensors.keys, tensors.values):
                    yield await asyncio.to_thread(wire_bytes, tensor)
        finally:
            await computing

    def _count_tokens(self, report: BlendReport, prompt: Prompt, recomputed: Indices) -> None:
        hits = [outcome.ref for outcome in report.chunks if not outcome.miss_reason]
        again = np.zeros(prompt.context_tokens, bool)
        again[recomputed] = True
        elements = self._engine.traits.layout.elements_per_token
        for ref in hits:
            fresh = int(again[ref.begin : ref.end].sum())
            report.tokens_recomputed += fresh
            if ref.in_exact_context:
                report.tokens_exact += ref.end - ref.begin - fresh
            else:
                report.tokens_reused += ref.end - ref.begin - fresh
        known = report.tokens_exact + report.tokens_reused + report.tokens_recomputed
        report.tokens_computed = len(prompt.token_ids) - known
        fetched = {ref.object_key: ref.end - ref.begin for ref in hits}
        report.bf16_bytes = sum(fetched.values()) * elements * 2
        self._counters.add("blends")
        for kind in ("exact", "reused", "recomputed", "computed"):
            self._counters.add(f"tokens_{kind}", getattr(report, f"tokens_{kind}"))
        self._counters.add("bytes_fetched", report.fetched_bytes)


def _placed(outcomes: Sequence[ChunkOutcome], chunks: dict[bytes, KVChunk]) -> list[PlacedChunk]:
    placed = []
    for outcome in outcomes:
        ref = outcome.ref
        if not outcome.miss_reason:
            place = ReusedChunk(ref.begin, ref.end, ref.chunk_key, ref.kind)
            placed.append(PlacedChunk(chunks[ref.object_key], place, ref.in_exact_context))
    return placed


async def _next(queue: "asyncio.Queue[LayerTensors]", producer: "asyncio.Task[None]") -> LayerTensors:
    """The queue's next item, or the producer's error if it failed before there was one."""
    getter = asyncio.create_task(queue.get())
    await asyncio.wait({getter, producer}, return_when=asyncio.FIRST_COMPLETED)
    if not getter.done() and producer.done() and producer.exception() is not None:
        getter.cancel()
        await producer
    return await getter
