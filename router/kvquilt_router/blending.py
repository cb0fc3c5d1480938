"""One blend, from a prompt's tokens to finished KV: plan, fetch, merge, select, compute, layer by layer out."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.types import KVChunk, TokenIds
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors, PromptKV, wire_bytes
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.fetching import Fetcher
from kvquilt_router.planning import Planner
from kvquilt_router.policies import policy_by_name
from kvquilt_router.types import (
    BlendOptions,
    BlendReport,
    ChunkOutcome,
    ChunkRef,
    Indices,
    Prompt,
    RecomputePolicy,
    SelectionProblem,
)
from kvquilt_rpc.counters import Counters


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
        fetcher: Fetcher,
        counters: Counters,
        *,
        concurrency: int,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._planner = planner
        self._fetcher = fetcher
        self._counters = counters
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
        policy = policy_by_name(options.policy)
        refs = self._planner.prompt(prompt, options.point)
        self._engine.check(prompt.token_ids, len(prompt.token_ids))
        async with self._slots, aclosing(self._blend(prompt, options, policy, refs)) as parts:
            async for part in parts:
                yield part

    async def _blend(
        self, prompt: Prompt, options: BlendOptions, policy: RecomputePolicy, refs: Sequence[ChunkRef]
    ) -> AsyncGenerator[memoryview | BlendReport, None]:
        started = time.perf_counter()
        token_ids = prompt.token_ids
        outcomes, chunks = await self._fetcher.fetch(refs)
        fetched = time.perf_counter()
        kv = await self._thread.run(self._merge, len(token_ids) - 1, outcomes, chunks)
        problem = _problem(prompt, options, outcomes)
        chosen = await self._thread.run(
            policy.select, problem, _Probe(self._engine, token_ids, kv, prompt.context_tokens)
        )
        selected = time.perf_counter()
        missing = _positions(outcomes, missed=True)
        question = np.arange(prompt.context_tokens, len(token_ids) - 1)
        positions = np.unique(np.concatenate([chosen, missing, question]))
        async with aclosing(self._computed(token_ids, kv, positions)) as tensors:
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
        self._count_tokens(report, prompt, np.setdiff1d(chosen, missing))
        yield report

    def _merge(self, tokens: int, outcomes: Sequence[ChunkOutcome], chunks: dict[bytes, KVChunk]) -> PromptKV:
        kv = self._engine.empty(tokens)
        for outcome in outcomes:
            if not outcome.miss_reason:
                kv.place(chunks[outcome.ref.object_key], outcome.ref.begin)
        self._engine.rotate_placed(kv)
        return kv

    async def _computed(
        self, token_ids: TokenIds, kv: PromptKV, positions: Indices
    ) -> AsyncGenerator[memoryview, None]:
        """Run the recompute; give each layer's tensors out while the next layers still compute."""
        loop = asyncio.get_running_loop()
        done: asyncio.Queue[LayerTensors] = asyncio.Queue()

        def on_layer(_: int, tensors: LayerTensors) -> None:
            loop.call_soon_threadsafe(done.put_nowait, tensors)

        computing = asyncio.create_task(self._thread.run(self._engine.recompute, token_ids, kv, positions, on_layer))
        try:
            for _ in kv.layers:
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


class _Probe:
    """See `LayerProbe`."""

    def __init__(self, engine: Engine, token_ids: TokenIds, kv: PromptKV, context: int) -> None:
        self._engine, self._token_ids, self._kv, self._context = engine, token_ids, kv, context

    def value_deviation(self, layer: int) -> NDArray[np.float32]:
        """See `LayerProbe.value_deviation`."""
        return self._engine.value_deviation(self._token_ids, self._kv, self._context, layer)


def _problem(prompt: Prompt, options: BlendOptions, outcomes: Sequence[ChunkOutcome]) -> SelectionProblem:
    refs = [outcome.ref for outcome in outcomes if not outcome.miss_reason and not outcome.ref.in_exact_context]
    spans = tuple((ref.begin, ref.end) for ref in refs)
    candidates = sum(end - begin for begin, end in spans)
    budget = int(np.ceil(options.recompute_ratio * candidates))
    return SelectionProblem(spans, prompt.context_tokens, budget, options.seed)


def _positions(outcomes: Sequence[ChunkOutcome], *, missed: bool) -> Indices:
    refs = [outcome.ref for outcome in outcomes if bool(outcome.miss_reason) == missed]
    return np.concatenate([np.arange(ref.begin, ref.end) for ref in refs] or [np.empty(0, np.int64)])


async def _next(queue: "asyncio.Queue[LayerTensors]", producer: "asyncio.Task[None]") -> LayerTensors:
    """The queue's next item, or the producer's error if it failed before there was one."""
    getter = asyncio.create_task(queue.get())
    await asyncio.wait({getter, producer}, return_when=asyncio.FIRST_COMPLETED)
    if not getter.done() and producer.done() and producer.exception() is not None:
        getter.cancel()
        await producer
    return await getter
