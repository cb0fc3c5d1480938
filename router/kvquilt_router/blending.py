"""One blend, from a prompt's tokens to finished KV: look up, decide, fetch, merge, select, compute, layer by layer."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from kvquilt_codec.container import DecodedChunk
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.types import KVChunk
from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors, wire_bytes
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.fetching import Fetcher, Key, key_of
from kvquilt_router.finding import Finder, Guess, changed
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.lookup import Lookup
from kvquilt_router.planning import Planner
from kvquilt_router.policies import AnchorPool, policy_by_name
from kvquilt_router.selection import ReusedChunk, Selection
from kvquilt_router.types import BlendOptions, BlendReport, ChunkOutcome, Indices, Prompt
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Blended:
    """A finished blend.

    Attributes:
        prompt: what was asked; of a plain prompt the question is what follows the last known text.
        report: what was done.
        assembly: the KV itself.
        looked_up: outcomes of the chunks that the prompt was cut into, before known text was found inside the missed.
    """

    prompt: Prompt
    report: BlendReport
    assembly: Assembly
    looked_up: list[ChunkOutcome]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What is known before anything is fetched.

    Attributes:
        looked_up: outcomes of the chunks that the prompt was cut into.
        report: decision, and outcomes with what was found inside the missed ones.
        guesses: what to compare when it has come.
    """

    looked_up: list[ChunkOutcome]
    report: BlendReport
    guesses: list[Guess]


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
        finder: Finder,
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
        self._finder = finder
        self._fetcher = fetcher
        self._gate = gate
        self._anchors = anchors
        self._counters = counters
        self._slots = asyncio.Semaphore(concurrency)

    async def plan(self, prompt: Prompt, options: BlendOptions) -> BlendReport:
        """What a blend would find and decide, without fetching or computing."""
        report = (await self._decided(prompt, options)).report
        if prompt.plain:
            report.chunks = _with_question(prompt, report.chunks)[1]
        return report

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

    async def _decided(self, prompt: Prompt, options: BlendOptions) -> "_Plan":
        refs = self._planner.prompt(prompt, options.point)
        order = self._gate.order(options)
        looked_up = await self._lookup.look_up(prompt, refs, order)
        outcomes, guesses = await self._found_inside(prompt, looked_up, order)
        contexts = {found.context for o in outcomes if (found := o.found) is not None}
        # Parts of a guessed chunk that do not begin it have lost what preceded them.
        contexts |= {context for guess in guesses for context in (guess.found.context, changed(guess.found.context))}
        decision, allowed = self._gate.decide(options, contexts)
        for outcome in outcomes:
            if outcome.found is not None and outcome.found.context not in allowed:
                outcome.found, outcome.miss_reason = None, "gate_closed"
        usable = [guess for guess in guesses if changed(guess.found.context) in allowed]
        return _Plan(looked_up, BlendReport(options, decision, outcomes), usable)

    async def _found_inside(
        self, prompt: Prompt, outcomes: list[ChunkOutcome], order: Sequence[str]
    ) -> tuple[list[ChunkOutcome], list[Guess]]:
        try:
            return await self._finder.find(prompt, outcomes, order)
        except KvquiltError as error:
            log.warning("missed text was not searched for known chunks: %s", error)
            return outcomes, []

    async def _blend(self, prompt: Prompt, options: BlendOptions) -> AsyncGenerator[memoryview | Blended, None]:
        started = time.perf_counter()
        plan = await self._decided(prompt, options)
        report = plan.report
        guessed = [ChunkOutcome(guess.outcome.ref, guess.found) for guess in plan.guesses]
        chunks = await self._fetcher.fetch(report.chunks, guessed)
        if plan.guesses:
            tokens = {o.found: chunks[key_of(o.found)].token_ids for o in guessed if o.found is not None}
            report.chunks = self._finder.aligned(report.chunks, plan.guesses, tokens)
        if prompt.plain:
            prompt, report.chunks = _with_question(prompt, report.chunks)
        fetched = time.perf_counter()
        order = tuple((outcome.ref.chunk_key, outcome.ref.begin) for outcome in report.chunks)
        assembly = Assembly(self._engine, prompt, _placed(report.chunks, chunks), order)
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
        yield Blended(prompt, report, assembly, plan.looked_up)

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


def _with_question(prompt: Prompt, outcomes: Sequence[ChunkOutcome]) -> tuple[Prompt, list[ChunkOutcome]]:
    """A plain prompt, its question being what follows the last known text."""
    kept = list(outcomes)
    while kept and kept[-1].ref.segment and kept[-1].found is None and kept[-1].miss_reason == "not_stored":
        kept.pop()
    end = max([len(prompt.prefix), *(outcome.ref.end for outcome in kept)])
    tokens = prompt.token_ids
    document = tokens[len(prompt.prefix) : end]
    return Prompt(prompt.prefix, (document,) if len(document) else (), tokens[end:], plain=True), kept


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
            *((meta.sources, meta.intra) if len(ref.token_ids) == meta.tokens else ()),
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
