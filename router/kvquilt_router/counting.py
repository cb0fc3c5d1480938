"""What became of a request's tokens, entered into its report."""

from collections.abc import Iterable

import numpy as np

from kvquilt_codec.tiers import Tier
from kvquilt_router.types import BlendReport, ChunkOutcome, Indices, Key, Prompt, key_of


def stored_tokens(outcomes: Iterable[ChunkOutcome], begin: int, end: int) -> dict[tuple[str, Tier], int]:
    """Tokens from `begin` up to `end` with stored KV, by its context and the tier that it was read from."""
    found: dict[tuple[str, Tier], int] = {}
    for outcome in outcomes:
        tokens = min(end, outcome.ref.end) - max(begin, outcome.ref.begin)
        if outcome.found is not None and tokens > 0:
            what = outcome.found.context, outcome.tier or Tier.UNKNOWN
            found[what] = found.get(what, 0) + tokens
    return found


def count_blended(report: BlendReport, prompt: Prompt, recomputed: Indices, elements_per_token: int) -> None:
    """Enter what a blend did with each token.

    Args:
        report: of the blend, with its chunks.
        prompt: as it was blended.
        recomputed: positions of the tokens that were computed again.
        elements_per_token: numbers in the KV of one token.
    """
    again = np.zeros(prompt.context_tokens, bool)
    again[recomputed] = True
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
    report.tokens_stored = stored_tokens(report.chunks, 0, prompt.context_tokens)
    report.tokens_computed = len(prompt.token_ids) - sum(report.tokens_stored.values())
    report.bf16_bytes = sum(read.values()) * elements_per_token * 2
