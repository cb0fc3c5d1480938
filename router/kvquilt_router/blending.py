"""One blend, from a prompt's tokens to finished KV: look up, decide, fetch, merge, select, compute, layer by layer."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np

from kvquilt_codec.container import DecodedChunk
from kvquilt_codec.errors import KvquiltError
from kvquilt_router.arriving import Arrivals
from kvquilt_router.assembly import Assembly
from kvquilt_router.counting import count_blended
from kvquilt_router.engine import Engine
from kvquilt_router.fetching import Fetcher
from kvquilt_router.finding import Came, Finder, Guess, changed
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.lookup import Lookup
from kvquilt_router.planning import Planner
from kvquilt_router.policies import policy_by_name
from kvquilt_router.starting import Choice, StartedBlend, Starter, with_question
from kvquilt_router.types import BlendOptions, BlendReport, ChunkOutcome, Key, Prompt, Sent, key_of
from kvquilt_router.usage import Tally, saved_seconds
from kvquilt_rpc import spans
from kvquilt_rpc.admission import Slots
from kvquilt_rpc.pace import Pace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Blended:
    """A finished blend.

    Attributes:
        prompt: what was asked; of a plain prompt the question is what follows the last known text.
        report: what was done.
        assembly: the KV itself.
        looked_up: outcomes of the chunks that the prompt was cut into, before known text was found inside the missed.
        seconds_per_token: that the engine took for what it computed.
    """

    prompt: Prompt
    report: BlendReport
    assembly: Assembly
    looked_up: list[ChunkOutcome]
    seconds_per_token: float


@dataclass(frozen=True, slots=True, eq=False)
class BlendPlan:
    """What is known before anything is fetched.

    Attributes:
        looked_up: outcomes of the chunks that the prompt was cut into.
        report: decision, and outcomes with what was found inside the missed ones.
        guesses: what to compare when it has come.
        contexts: of the chunks that are used.
        seconds: that it took.
    """

    looked_up: list[ChunkOutcome]
    report: BlendReport
    guesses: list[Guess]
    contexts: frozenset[str]
    seconds: float

    @property
    def stored(self) -> bool:
        """Whether stored KV would be used, as far as it is known."""
        return bool(self.guesses) or any(outcome.found is not None for outcome in self.report.chunks)

    def shown(self, prompt: Prompt) -> BlendReport:
        """The report as a blend's would be; this plan's own is not changed."""
        if not prompt.plain:
            return self.report
        return replace(self.report, chunks=with_question(prompt, self.report.chunks)[1])


class Blender:
    """Blends prompts for one model in one namespace.

    Args:
        tally: counts for the namespace.
        prefill: how fast the engine computes whole prompts; shared by all namespaces, and told of those blends that
            compute most of theirs.
        slots: of blends, for all that share them: each holds a prompt's whole KV.
        fetch_deadline: seconds that chunks may take to come.
    """

    def __init__(
        self,
        engine: Engine,
        starter: Starter,
        planner: Planner,
        lookup: Lookup,
        finder: Finder,
        fetcher: Fetcher,
        gate: HeldGate,
        tally: Tally,
        prefill: Pace,
        *,
        slots: Slots,
        fetch_deadline: float,
    ) -> None:
        self._engine = engine
        self._starter = starter
        self._planner = planner
        self._lookup = lookup
        self._finder = finder
        self._fetcher = fetcher
        self._gate = gate
        self._tally = tally
        self._prefill = prefill
        self._fetch_deadline = fetch_deadline
        self._slots = slots

    @property
    def elements_per_token(self) -> int:
        """KV elements of one token."""
        return self._engine.traits.layout.elements_per_token

    def check(self, prompt: Prompt, options: BlendOptions) -> None:
        """Refuse what cannot be blended.

        Raises:
            BadRequestError: an unknown policy, a token beyond the vocabulary, more tokens than the model's context.
        """
        if options.policy is not None:
            policy_by_name(options.policy)
        self._engine.check(prompt.token_ids, len(prompt.token_ids))

    async def blend(
        self,
        prompt: Prompt,
        options: BlendOptions,
        plan: BlendPlan | None = None,
        first: int = 0,
        *,
        leaves_tail: bool = False,
    ) -> AsyncGenerator[Sent | memoryview | Blended, None]:
        """Of which tokens KV is sent; it, keys, then values, of each layer in order; then what was done.

        Each item of bytes is one tensor `[kv_heads, tokens, dim]`.

        Args:
            prompt: see there.
            options: how to blend.
            plan: made of these two just now, if it was.
            first: KV of the tokens before this one is left out.
            leaves_tail: see `Wanted`.

        Raises:
            BadRequestError: an empty question or document; see also `check`.
            CapacityError: too many wait, or it would be late.
        """
        self.check(prompt, options)
        arrived = time.perf_counter()
        async with spans.waited("kvquilt.wait", self._slots.turn()):
            self._tally.meter.waited(time.perf_counter() - arrived)
            decided = await self.plan(prompt, options) if plan is None else plan
            async with aclosing(self._blend(prompt, options, decided, first, leaves_tail)) as parts:
                async for part in parts:
                    yield part

    @spans.traced("kvquilt.find")
    async def plan(self, prompt: Prompt, options: BlendOptions) -> BlendPlan:
        """What a blend would find and decide, without fetching or computing."""
        started = time.perf_counter()
        refs = self._planner.prompt(prompt, options.point)
        order = self._gate.order(options)
        looked_up = await self._lookup.look_up(prompt, refs, order)
        outcomes, guesses = await self._found_inside(prompt, looked_up, order)
        contexts = {found.context for o in outcomes if (found := o.found) is not None}
        # Parts of a guessed chunk that do not begin it have lost what preceded them.
        contexts |= {context for guess in guesses for context in (guess.found.context, changed(guess.found))}
        decision, allowed = self._gate.decide(options, contexts)
        for outcome in outcomes:
            if outcome.found is not None and outcome.found.context not in allowed:
                outcome.kept_out = outcome.found.context
                outcome.found, outcome.miss_reason = None, "gate_closed"
        usable = [guess for guess in guesses if changed(guess.found) in allowed]
        spans.note(chunks=len(outcomes), misses=sum(outcome.found is None for outcome in outcomes))
        return BlendPlan(
            looked_up, BlendReport(options, decision, outcomes), usable, allowed, time.perf_counter() - started
        )

    async def _found_inside(
        self, prompt: Prompt, outcomes: list[ChunkOutcome], order: Sequence[str]
    ) -> tuple[list[ChunkOutcome], list[Guess]]:
        try:
            return await self._finder.find(prompt, outcomes, order)
        except KvquiltError as error:
            log.warning("missed text was not searched for known chunks: %s", error)
            return outcomes, []

    async def _blend(
        self, prompt: Prompt, options: BlendOptions, plan: BlendPlan, first: int, leaves_tail: bool
    ) -> AsyncGenerator[Sent | memoryview | Blended, None]:
        started = time.perf_counter() - plan.seconds
        report, least = plan.report, first + 1 if leaves_tail and plan.stored else None
        guessed = [ChunkOutcome(guess.outcome.ref, guess.found) for guess in plan.guesses]
        chunks, blend = await self._fetched(prompt, options, plan, guessed, least)
        if blend is None:
            if plan.guesses:
                came = {
                    o.found: Came(chunks[key_of(o.found)].token_ids, o.tier) for o in guessed if o.found is not None
                }
                report.chunks = self._finder.aligned(report.chunks, plan.guesses, came)
            fetched = time.perf_counter()
            blend = self._starter.now(Choice.of(prompt, report.chunks, report.decision, least), chunks, options)
        else:
            fetched = time.perf_counter()
        computation = blend.computation
        yield Sent(first, blend.choice.end)
        async with aclosing(computation.layers(first)) as tensors:
            async for tensor in tensors:
                yield tensor
        finished = time.perf_counter()
        report.chunks, report.decision = blend.choice.outcomes, blend.choice.decision
        report.seconds = {
            "fetch": fetched - started,
            "select": computation.selected - computation.began,
            "compute": finished - computation.selected,
            "total": finished - started,
            "overlap": max(0.0, fetched - computation.running - computation.waited),
        }
        assembly = computation.assembly
        layers, computed = len(assembly.kv.layers), len(assembly.computed)
        self._starter.pace.measured(computation.engine_seconds, computed, layers)
        if 2 * computed > assembly.kv.tokens:
            self._prefill.measured(computation.engine_seconds, computed, layers)
        report.observed_deviation = assembly.observed_deviation
        count_blended(report, blend.choice.prompt, assembly.recomputed, self.elements_per_token)
        if self._prefill.seconds is not None:
            report.prefill_seconds_per_token = self._prefill.seconds * layers
        fresh = computed - report.tokens_recomputed
        report.saved_seconds = saved_seconds(report, computation.engine_seconds, fresh)
        self._tally.blended(report)
        if report.decision.refusal:
            self._tally.add(f"blends_refused_{report.decision.refusal}")
        deviation = computation.selection.deviation
        if deviation is not None:
            report.reused_positions = np.setdiff1d(computation.problem.candidates, assembly.recomputed)
            report.reused_deviations = deviation[report.reused_positions]
        each = computation.engine_seconds / max(computed, 1)
        yield Blended(blend.choice.prompt, report, assembly, plan.looked_up, each)

    async def _fetched(
        self,
        prompt: Prompt,
        options: BlendOptions,
        plan: "BlendPlan",
        guessed: Sequence[ChunkOutcome],
        least: int | None,
    ) -> tuple[Mapping[Key, DecodedChunk], StartedBlend | None]:
        """What came, and the blend if it was begun before that and all that it needs has come."""
        outcomes = plan.report.chunks
        keys = {key_of(outcome.found) for outcome in (*guessed, *outcomes) if outcome.found is not None}
        arrivals = Arrivals(keys, len(self._engine.traits.layout.layers), self._fetch_deadline)
        fetching = asyncio.create_task(self._fetcher.fetch(outcomes, guessed, arrivals))
        fetching.add_done_callback(lambda _: arrivals.move())
        blend: StartedBlend | None = None
        try:
            if keys and not plan.guesses:
                choice = Choice.of(prompt, outcomes, plan.report.decision, least)
                blend = await self._starter.early(choice, options, plan.contexts, arrivals, fetching)
            chunks = await fetching
            if blend is not None and arrivals.failed:
                await blend.computation.dropped()
                blend = None
        except BaseException:
            arrivals.fail()
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
            if blend is not None:
                await blend.computation.dropped()
            raise
        return chunks, blend
