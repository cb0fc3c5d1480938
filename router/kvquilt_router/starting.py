"""Begins to compute a blend: when all chunks have come, or while they still do, so that the engine need not wait."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kvquilt_codec.container import DecodedChunk
from kvquilt_router.arriving import Arrivals
from kvquilt_router.assembly import Assembly
from kvquilt_router.computation import Computation
from kvquilt_router.engine import Engine
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.gate.types import Decision
from kvquilt_router.pipelining import balanced_ratio, keeps_up
from kvquilt_router.placement import FetchedChunk, fits, placed
from kvquilt_router.policies import AnchorPool, policy_by_name
from kvquilt_router.policies.none import NoRecompute
from kvquilt_router.selection import EstimatingPolicy, SelectionProblem
from kvquilt_router.types import BlendOptions, ChunkOutcome, Key, Prompt, key_of
from kvquilt_rpc.pace import Pace


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """How one prompt is blended.

    Attributes:
        prompt: of a plain one the question is what follows the last known text.
        outcomes: what was found of its context.
        decision: the gate's.
        end: KV is made of the tokens up to this one.
    """

    prompt: Prompt
    outcomes: list[ChunkOutcome]
    decision: Decision
    end: int

    @classmethod
    def of(
        cls, prompt: Prompt, outcomes: Sequence[ChunkOutcome], decision: Decision, least: int | None = None
    ) -> "Choice":
        """The choice for a prompt as it came.

        Args:
            prompt: see there.
            outcomes: what was found of its context.
            decision: the gate's.
            least: what follows the last stored token need not be computed; KV is made of so many tokens at least.
                `None`: it is made of all but the last.
        """
        end = kv_end(prompt, (o for o in outcomes if o.found is not None), decision, least)
        if prompt.plain:
            return cls(*with_question(prompt, outcomes), decision, end)
        return cls(prompt, list(outcomes), decision, end)


@dataclass(frozen=True, slots=True, eq=False)
class StartedBlend:
    """A blend that computes."""

    choice: Choice
    computation: Computation


class Starter:
    """Begins blends of one model in one namespace.

    Args:
        pace: shared by all namespaces.
        pipeline: begin while chunks still come; otherwise `early` never does.
        balance: recompute more than the gate asks for where that costs no time.

    Attributes:
        pace: how fast the engine computes; its user tells it of every blend.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        gate: HeldGate,
        anchors: AnchorPool,
        pace: Pace,
        *,
        pipeline: bool,
        balance: bool,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._gate = gate
        self._anchors = anchors
        self._pipeline = pipeline
        self._balance = balance
        self.pace = pace

    def now(self, choice: Choice, chunks: Mapping[Key, FetchedChunk], options: BlendOptions) -> StartedBlend:
        """Begin a blend whose chunks have come."""
        assembly, problem = self._assembled(choice, chunks, options, lambda _: None)
        policy = policy_by_name(choice.decision.policy, self._anchors)
        return StartedBlend(choice, Computation(self._thread, assembly, policy, problem))

    async def early(
        self,
        choice: Choice,
        options: BlendOptions,
        contexts: Collection[str],
        arrivals: Arrivals,
        fetching: "asyncio.Task[dict[Key, DecodedChunk]]",
    ) -> StartedBlend | None:
        """Begin a blend as soon as the engine need not stand still for what is still to come.

        A chunk that fails after that makes what is computed worthless; then `arrivals` have failed.

        Args:
            choice: how to blend.
            options: what was asked for.
            contexts: of the chunks.
            arrivals: all chunks, on their way.
            fetching: what fetches them.

        Returns:
            The blend, or `None` if that did not happen: everything must come first.
        """
        pace = self.pace.seconds
        if not self._pipeline or pace is None:
            return None
        while (chunks := arrivals.described()) is None:
            if fetching.done() or arrivals.failed:
                return None
            await arrivals.moved()
        if not all(fits(o, chunks[key_of(o.found)]) for o in choice.outcomes if o.found is not None):
            return None
        if self._balance:
            choice = self._balanced(choice, options, contexts, arrivals.seconds_until(chunks), pace)
        policy = policy_by_name(choice.decision.policy, self._anchors)
        if isinstance(policy, EstimatingPolicy):
            return None
        assembly, problem = self._assembled(choice, chunks, options, arrivals.wait)
        # A look computes at least the question in every layer; how much it will choose is not known before it.
        selection, tokens = None, choice.end - choice.prompt.context_tokens
        if not policy.looks:
            selection = policy.select(problem, assembly)
            tokens = len(assembly.positions(selection))
        while not keeps_up(arrivals.seconds_until(chunks), pace * tokens):
            if fetching.done() or arrivals.failed:
                return None
            await arrivals.moved()
        return StartedBlend(choice, Computation(self._thread, assembly, policy, problem, selection, arrivals))

    def _balanced(
        self,
        choice: Choice,
        options: BlendOptions,
        contexts: Collection[str],
        seconds_until: Sequence[float],
        pace: float,
    ) -> Choice:
        decision = choice.decision
        better = {d.recompute_ratio: d for d in self._gate.raised(options, contexts, decision)}
        reused = [o for o in choice.outcomes if o.found is not None and o.found.context != EXACT]
        ratio = balanced_ratio(
            decision.recompute_ratio,
            better,
            max(seconds_until),
            pace * len(seconds_until),
            sum(len(outcome.ref.token_ids) for outcome in reused),
        )
        return replace(choice, decision=better.get(ratio, decision))

    def _assembled(
        self,
        choice: Choice,
        chunks: Mapping[Key, FetchedChunk],
        options: BlendOptions,
        awaited: Callable[[int], None],
    ) -> tuple[Assembly, SelectionProblem]:
        order = tuple((outcome.ref.chunk_key, outcome.ref.begin) for outcome in choice.outcomes)
        found = placed(choice.outcomes, chunks)
        assembly = Assembly(self._engine, choice.prompt, found, order, awaited, choice.end)
        return assembly, assembly.problem(choice.decision.recompute_ratio, options.seed)


def kv_end(prompt: Prompt, used: Iterable[ChunkOutcome], decision: Decision, least: int | None) -> int:
    """Up to which token a blend makes KV: see `Choice.of`."""
    end = len(prompt.token_ids) - 1
    if least is None or decision.policy != NoRecompute.name:
        return end
    return min(end, max([least, *(outcome.ref.end for outcome in used)]))


def with_question(prompt: Prompt, outcomes: Sequence[ChunkOutcome]) -> tuple[Prompt, list[ChunkOutcome]]:
    """A plain prompt, its question being what follows the last known text."""
    kept = list(outcomes)
    while kept and kept[-1].ref.segment and kept[-1].found is None and kept[-1].miss_reason == "not_stored":
        kept.pop()
    end = max([len(prompt.prefix), *(outcome.ref.end for outcome in kept)])
    tokens = prompt.token_ids
    document = tokens[len(prompt.prefix) : end]
    return Prompt(prompt.prefix, (document,) if len(document) else (), tokens[end:], plain=True), kept
