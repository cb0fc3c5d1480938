"""What a worker is given of a prompt's KV: the one decision that plans tell and blends carry out."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.blending import Blended, Blender, BlendPlan
from kvquilt_router.counting import stored_tokens
from kvquilt_router.estimates import Estimates, Way, earliest
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.heads import Head, HeadFinder
from kvquilt_router.lattice import partition
from kvquilt_router.left_out import left_out
from kvquilt_router.loading import HeadLoader
from kvquilt_router.offers import Begun, Loaded, Offer
from kvquilt_router.planned import exact_chunks, work
from kvquilt_router.types import SLOWER, BlendOptions, BlendReport, Extent, Prompt, Sent, Wanted
from kvquilt_router.usage import Tally, saved_seconds


class Offers:
    """Decides what workers are given of one model's prompts in one namespace, and gives it."""

    def __init__(
        self,
        blender: Blender,
        finder: HeadFinder,
        loader: HeadLoader,
        gate: HeldGate,
        estimates: Estimates,
        tally: Tally,
    ) -> None:
        self._blender = blender
        self._finder = finder
        self._loader = loader
        self._gate = gate
        self._estimates = estimates
        self._tally = tally

    async def offer(self, prompt: Prompt, options: BlendOptions, wanted: Wanted) -> Offer:
        """What would be given, by one look-up of each kind that is asked for.

        Raises:
            BadRequestError: see `Blender.check`; more tokens computed than the prompt has.
        """
        self._check(prompt, options, wanted)
        last = len(prompt.token_ids) - 1
        worker = wanted.seconds_per_token or self._estimates.seconds_per_token
        computing = self._estimates.computing(last + 1 - wanted.computed, worker)
        if wanted.computed >= max(last, 1) or (last == 0 and wanted.extent is not Extent.PROMPT):
            return _nothing(wanted, computing, "nothing_new")
        head, plan = await asyncio.gather(self._head(prompt, options, wanted), self._plan(prompt, options, wanted))
        if head is not None and plan is not None:
            # What the blend's look-ups found of it, however it was cut when it was stored.
            head = head.widened(exact_chunks(plan), wanted.computed)
        offers = [_nothing(wanted, computing, "nothing_stored", head, plan)]
        if head is not None and wanted.computed < head.end < wanted.computed + wanted.least:
            offers = [_nothing(wanted, computing, "too_short", head, plan)]
        elif head is not None and head.end > wanted.computed:
            fetched = sum(len(outcome.ref.token_ids) for outcome in head.chunks)
            way = self._estimates.head(fetched, last + 1 - head.end, worker)
            offers.append(Offer(Extent.EXACT, wanted.computed, head.end, way, computing, "", head, plan))
        if plan is not None and wanted.extent is not Extent.EXACT:
            found, computed, end = work(prompt, plan, wanted)
            way = self._estimates.blend(found, computed, last + 1 - end, worker)
            blend = Offer(Extent.PROMPT, wanted.computed, end, way, computing, "", head, plan)
            if wanted.extent is Extent.PROMPT:
                new = end > wanted.computed or not wanted.leaves_tail
                return blend if new else _nothing(wanted, computing, "nothing_new", plan=plan)
            if end > wanted.computed and found > (0 if head is None else head.end):
                offers.append(blend)
        if wanted.extent is Extent.EXACT:
            return offers[-1]
        chosen = offers[earliest([offer.way for offer in offers])]
        if chosen is offers[0] and len(offers) > 1:
            self._estimates.refused()
            return _nothing(wanted, computing, SLOWER, head, plan)
        return chosen

    def shown(self, prompt: Prompt, options: BlendOptions, offer: Offer) -> BlendReport:
        """What a report would say of an offer's chunks and decision."""
        if offer.plan is not None and offer.extent is Extent.PROMPT:
            return offer.plan.shown(prompt)
        decision, _ = self._gate.decide(options, {EXACT})
        if offer.plan is not None:
            # Why nothing is blended, where that was asked for too.
            decision = replace(decision, refusal=offer.plan.report.decision.refusal)
        given = offer.head.chunks if offer.head is not None and offer.extent is Extent.EXACT else []
        refs = [
            self._finder.ref(prompt, piece, options.point)
            for piece in partition(self._finder.pieces(prompt), offer.end, prompt.context_tokens)
        ]
        known = [] if offer.plan is None else offer.plan.report.chunks
        missed = "not_stored" if offer.head is None else offer.head.missed
        return BlendReport(options, decision, [*given, *left_out(refs, known, missed)])

    def declined(self, prompt: Prompt, options: BlendOptions, offer: Offer, wanted: Wanted, started: float) -> Loaded:
        """A request that ends with the offer of nothing; it is counted.

        Args:
            prompt, options, wanted: what was asked.
            offer: of nothing.
            started: when, by `time.perf_counter`.
        """
        sent = Sent(offer.first, offer.first)
        return Loaded(prompt, self._report(prompt, options, sent, wanted, started, offer), sent)

    def _check(self, prompt: Prompt, options: BlendOptions, wanted: Wanted) -> None:
        self._blender.check(prompt, options)
        if wanted.computed > len(prompt.token_ids):
            raise BadRequestError(
                f"expected at most {len(prompt.token_ids)} computed tokens, those of the prompt; got {wanted.computed}"
            )

    async def _head(self, prompt: Prompt, options: BlendOptions, wanted: Wanted) -> Head | None:
        if wanted.extent is Extent.PROMPT:
            return None
        last = len(prompt.token_ids) - 1
        return await self._finder.find(prompt, options.point, wanted.computed, last, cut_otherwise=True)

    async def _plan(self, prompt: Prompt, options: BlendOptions, wanted: Wanted) -> BlendPlan | None:
        return (
            None if wanted.extent is Extent.EXACT and not wanted.search else await self._blender.plan(prompt, options)
        )

    async def give(
        self, prompt: Prompt, options: BlendOptions, wanted: Wanted
    ) -> AsyncGenerator[Begun | memoryview | Blended | Loaded, None]:
        """What is sent, its tensors (keys, then values, of each layer in order), and what was done.

        Raises:
            BadRequestError: see `offer`.
            UnavailableError: stored KV was lost while it was sent.
        """
        self._check(prompt, options, wanted)
        started = time.perf_counter()
        last = len(prompt.token_ids) - 1
        if wanted.extent is Extent.PROMPT and not wanted.leaves_tail and wanted.computed < max(1, last):
            # What is to be done is known: it is looked up when it is the blend's turn.
            parts = self._blended(prompt, options, None, wanted)
        else:
            offer = await self.offer(prompt, options, wanted)
            if offer.extent is Extent.PROMPT:
                parts = self._blended(prompt, options, offer.plan, wanted)
            else:
                parts = self._loaded(prompt, options, offer, wanted, started)
        async with aclosing(parts) as given:
            async for part in given:
                yield part

    async def _blended(
        self, prompt: Prompt, options: BlendOptions, plan: BlendPlan | None, wanted: Wanted
    ) -> AsyncGenerator[Begun | memoryview | Blended | Loaded, None]:
        begun: Begun | None = None
        blend = self._blender.blend(prompt, options, plan, wanted.computed, leaves_tail=wanted.leaves_tail)
        async with aclosing(blend) as parts:
            async for part in parts:
                if isinstance(part, Sent):
                    begun = Begun(Extent.PROMPT, part.first, part.end)
                    continue
                if begun is not None:
                    # Only now: what the blend refuses at its start must come as a status, not after a header.
                    yield begun
                    begun = None
                yield part
                if isinstance(part, Blended):
                    self._learn(part)

    def _learn(self, done: Blended) -> None:
        seconds = done.report.seconds
        found = sum(len(outcome.ref.token_ids) for outcome in done.report.chunks if outcome.found is not None)
        computed = len(done.assembly.computed)
        self._estimates.chunks.measured(seconds["fetch"] - seconds["overlap"], found)
        self._estimates.computes.measured(done.seconds_per_token * computed, computed)
        self._estimates.blends.measured(seconds["select"] + seconds["compute"], 1, 1)

    async def _loaded(
        self, prompt: Prompt, options: BlendOptions, offer: Offer, wanted: Wanted, started: float
    ) -> AsyncGenerator[Begun | memoryview | Blended | Loaded, None]:
        sent = Sent(offer.first, offer.first)
        if offer.extent is Extent.EXACT and offer.head is not None:
            async with aclosing(self._loader.load(offer.head, offer.first)) as parts:
                async for part in parts:
                    if isinstance(part, Sent):
                        sent = part
                        yield Begun(Extent.EXACT if sent.end > sent.first else Extent.NOTHING, sent.first, sent.end)
                    else:
                        yield part
        else:
            yield Begun(Extent.NOTHING, offer.first, offer.first)
        yield Loaded(prompt, self._report(prompt, options, sent, wanted, started, offer), sent)

    def _report(
        self, prompt: Prompt, options: BlendOptions, sent: Sent, wanted: Wanted, started: float, offer: Offer
    ) -> BlendReport:
        report = self.shown(prompt, options, offer)
        report.tokens_exact = sent.end - sent.first
        report.tokens_computed = len(prompt.token_ids) - report.tokens_exact
        report.tokens_stored = stored_tokens(report.chunks, sent.first, sent.end)
        seconds = time.perf_counter() - started
        report.seconds = {"fetch": seconds, "select": 0.0, "compute": 0.0, "total": seconds, "overlap": 0.0}
        chunks = offer.head.chunks if offer.head is not None and offer.extent is Extent.EXACT else []
        elements = self._blender.elements_per_token
        report.bf16_bytes = sum(len(chunk.ref.token_ids) for chunk in chunks if chunk.found is not None) * elements * 2
        report.prefill_seconds_per_token = wanted.seconds_per_token or self._estimates.seconds_per_token
        report.saved_seconds = saved_seconds(report, 0.0, 0)
        self._estimates.heads.measured(seconds, sum(len(chunk.ref.token_ids) for chunk in chunks))
        self._tally.blended(report, Extent.EXACT if report.tokens_exact else Extent.NOTHING)
        self._tally.add("loads_exact" if report.tokens_exact else "loads_nothing")
        for outcome in report.chunks[len(chunks) :]:
            self._tally.add(f"chunks_missed_{outcome.miss_reason}")
        if sent.end < offer.end:
            self._tally.add("loads_less")
        return report


def _nothing(
    wanted: Wanted, computing: Way, reason: str, head: Head | None = None, plan: BlendPlan | None = None
) -> Offer:
    if reason == "nothing_stored" and head is not None and 0 < head.reached <= wanted.computed:
        reason = "nothing_new"
    return Offer(Extent.NOTHING, wanted.computed, wanted.computed, computing, computing, reason, head, plan)
