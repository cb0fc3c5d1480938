"""What a blend that was planned comes to, for whoever weighs it against other ways. Pure computation."""

import numpy as np

from kvquilt_router.blending import BlendPlan
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.starting import kv_end
from kvquilt_router.types import ChunkOutcome, Prompt, Wanted


def exact_chunks(plan: BlendPlan) -> list[ChunkOutcome]:
    """Whole chunks that were found in the prompt's exact context."""
    return [
        outcome
        for outcome in plan.report.chunks
        if (found := outcome.found) is not None
        and found.context == EXACT
        and len(outcome.ref.token_ids) == found.info.meta.tokens
    ]


def work(prompt: Prompt, plan: BlendPlan, wanted: Wanted) -> tuple[int, int, int]:
    """Tokens that would be fetched, and that would be computed here, of a blend, and where what is sent would end.

    Guessed chunks are found in full.
    """
    report = plan.report
    guessed = {id(guess.outcome) for guess in plan.guesses}
    used = [outcome for outcome in report.chunks if outcome.found is not None or id(outcome) in guessed]
    known = np.zeros(len(prompt.token_ids), bool)
    for outcome in used:
        known[outcome.ref.begin : outcome.ref.end] = True
    changed = sum(
        len(outcome.ref.token_ids) for outcome in used if outcome.found is None or outcome.found.context != EXACT
    )
    found = int(known.sum())
    least = wanted.computed if wanted.leaves_tail and plan.stored else None
    end = kv_end(prompt, used, report.decision, least)
    return found, end - found + int(report.decision.recompute_ratio * changed), end
