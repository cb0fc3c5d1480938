"""One blend, from a prompt's tokens to finished KV: look up, decide, fetch, merge, select, compute, layer by layer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from kvquilt_codec.container import DecodedChunk
from kvquilt_codec.types import KVChunk
from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors, wire_bytes
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.fetching import Fetcher, Key, key_of
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.lookup import Lookup
from kvquilt_router.planning import Planner
from kvquilt_router.policies import AnchorPool, policy_by_name
from kvquilt_router.selection import ReusedChunk, Selection
from kvquilt_router.types import BlendOptions, BlendReport, ChunkOutcome, Indices, Prompt
from kvquilt_rpc.counters import Counters


@dataclass(frozen=True, slots=True, eq=False)
class Blended:
    """A finished blend: what was asked, what was done, and the KV itself."""

    prompt: Prompt
    report: BlendReport
    assembly: Assembly


class Blender:
    """Blends prompts for one model.

    Args:
        concurrency: blends at once; further ones wait, since each holds a prompt's whole KV.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        planner: Planner,
        lookup: Lookup,
        fetcher: Fetcher,
        gate: HeldGate,
        anchors: AnchorPool,
        counters: Counters,
        *,
        concurrency: int,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._planner = planner
        self._lookup = lookup
        self._fetcher = fetcher
        self._gate = gate
        self._anchors = anchors
        self._counters = counters
        self._slots = asyncio.Semaphore(concurrency)

    async def plan(self, prompt: Prompt, options: BlendOptions) -> BlendReport:
        """What a blend would find and decide, without fetching or computing."""
        return await self._decided(prompt, options)

    async def blend(self, prompt: Prompt, options: BlendOptions) -> AsyncGenerator[memoryview | Blended, None]:
        """Finished KV of all tokens but the last: keys, then values, of each layer in order; then what was done.

        Each item of bytes is one tensor `[kv_heads, tokens - 1, dim]`.

        Raises:
            BadRequestError: an empty question or document, an unknown policy, more tokens than the model's context.
        """
        if options.policy is not None:
            policy_by_name(options.policy, self._anchors)
        self._engine.check(prompt.token_ids, len(prompt.token_ids))
        async with self._slots, aclosing(self._blend(prompt, options)) as parts:
            async for part in parts:
                yield part

    async def _decided(self, prompt: Prompt, options: BlendOptions) -> BlendReport:
        refs = self._planner.prompt(prompt, options.point)
        outcomes = await self._lookup.look_up(prompt, refs, self._gate.order(options))
        decision, allowed = self._gate.decide(options, {o.found.context for o in outcomes if o.found is not None})
        for outcome in outcomes:
            if outcome.found is not None and outcome.found.context not in allowed:
                outcome.found, outcome.miss_reason = None, "gate_closed"
        return BlendReport(options, decision, outcomes)

    async def _blend(self, prompt: Prompt, options: BlendOptions) -> AsyncGenerator[memoryview | Blended, None]:
        started = time.perf_counter()
        report = await self._decided(prompt, options)
        chunks = await self._fetcher.fetch(report.chunks)
        fetched = time.perf_counter()
        assembly = Assembly(self._engine, prompt, _placed(report.chunks, chunks))
        await self._thread.run(assembly.merge)
        decision = report.decision
        problem = assembly.problem(decision.recompute_ratio, options.seed)
        policy = policy_by_name(decision.policy, self._anchors)
        selection = await self._thread.run(assembly.select, policy, problem)
        selected = time.perf_counter()
        async with aclosing(self._computed(assembly, selection)) as tensors:
            async for tensor in tensors:
                yield tensor
        finished = time.perf_counter()
        report.seconds = {
            "fetch": fetched - started,
            "select": selected - fetched,
            "compute": finished - selected,
            "total": finished - started,
        }
        report.observed_deviation = assembly.observed_deviation
        self._count_tokens(report, prompt, assembly.recomputed)
        if selection.deviation is not None:
            report.reused_positions = np.setdiff1d(problem.candidates, assembly.recomputed)
            report.reused_deviations = selection.deviation[report.reused_positions]
        yield Blended(prompt, report, assembly)

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
        again = np.zeros(prompt.context_tokens, bool)
        again[recomputed] = True
        elements = self._engine.traits.layout.elements_per_token
        read: dict[Key, int] = {}
        for outcome in report.chunks:
            if outcome.found is None:
                continue
            ref, found = outcome.ref, outcome.found
            read[key_of(found)] = found.info.meta.tokens
            fresh = int(again[ref.begin : ref.end].sum())
            report.tokens_recomputed += fresh
            if found.context == "exact":
                report.tokens_exact += ref.end - ref.begin - fresh
            else:
                report.tokens_reused += ref.end - ref.begin - fresh
        known = report.tokens_exact + report.tokens_reused + report.tokens_recomputed
        report.tokens_computed = len(prompt.token_ids) - known
        report.bf16_bytes = sum(read.values()) * elements * 2
        self._counters.add("blends")
        if report.decision.refusal:
            self._counters.add(f"blends_refused_{report.decision.refusal}")
        for kind in ("exact", "reused", "recomputed", "computed"):
            self._counters.add(f"tokens_{kind}", getattr(report, f"tokens_{kind}"))
        self._counters.add("bytes_fetched", report.fetched_bytes)


def _placed(outcomes: Sequence[ChunkOutcome], chunks: Mapping[Key, DecodedChunk]) -> list[PlacedChunk]:
    placed = []
    for outcome in outcomes:
        ref, found = outcome.ref, outcome.found
        if found is None:
            continue
        decoded = chunks[key_of(found)]
        cut = slice(outcome.source_begin, outcome.source_begin + len(ref.token_ids))
        side, meta = decoded.side, found.info.meta
        place = ReusedChunk(
            ref.begin,
            ref.end,
            ref.chunk_key,
            meta.variant,
            None if side is None or side.dependence is None else side.dependence[:, :, cut],
            None if side is None or side.inter is None else side.inter[cut],
            meta.sources,
            meta.intra,
        )
        placed.append(PlacedChunk(_part(decoded.chunk(), cut), place, found.context == "exact", outcome.repair))
    return placed


def _part(chunk: KVChunk, cut: slice) -> KVChunk:
    if cut == slice(0, chunk.tokens):
        return chunk
    begin = None if chunk.rotated_from is None else chunk.rotated_from + cut.start
    keys, values = (tuple(tensor[cut] for tensor in tensors) for tensors in (chunk.keys, chunk.values))
    return KVChunk(chunk.layout, chunk.token_ids[cut], keys, values, begin)


async def _next(queue: "asyncio.Queue[LayerTensors]", producer: "asyncio.Task[None]") -> LayerTensors:
    """The queue's next item, or the producer's error if it failed before there was one."""
    getter = asyncio.create_task(queue.get())
    await asyncio.wait({getter, producer}, return_when=asyncio.FIRST_COMPLETED)
    if not getter.done() and producer.done() and producer.exception() is not None:
        getter.cancel()
        await producer
    return await getter
