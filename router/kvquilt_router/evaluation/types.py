"""The vocabulary of evaluation: cases, what is tried on them, what comes out. Read this file first."""

from dataclasses import dataclass

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.types import Prompt

ALONE = "alone"
"""Chunks computed at position 0 without anything before them, as CacheBlend and EPIC do."""
BASE = "base"
PAIR = "pair"
HALF_PAIR = "half-pair"
"""Every other chunk as `pair`, the rest as `base`: what a router has that has seen half of the neighbours before."""
WARM = "warm"
EXACT = "exact"
"""Every chunk computed in its very context: what is left of the divergence is the codec's."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One prompt whose documents are chunks of one piece each, and what is to be answered.

    Attributes:
        name: unique within a run.
        kind: what sort of case it is, in a word.
        prompt: shared prefix, chunks, question.
        answer: tokens that divergence is measured on; none: those that a full prefill decodes greedily.
    """

    name: str
    kind: str
    prompt: Prompt
    answer: TokenIds


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to blend a case.

    Attributes:
        policy: by name.
        recompute_ratio: share of the tokens whose context changed.
        variant: what preceded the chunks when they were computed; one of the names above.
        level: of the codec that they went through; empty: none.
        warm_up: name of the passages that `warm` chunks were computed after.
    """

    policy: str
    recompute_ratio: float
    variant: str
    level: str = ""
    warm_up: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial did to one case.

    Attributes:
        kl: mean KL(full || blended) over the answer's tokens, in nats.
        first_token_kl: of the answer's first token.
        top1_agreement: share of the answer's tokens where both rank the same token first.
        cpu_share: CPU time of merging, choosing and computing, relative to a full prefill of the same prompt.
        tokens_recomputed: how many.
        right: whether a known answer is ranked first at all of its tokens.
        right_in_full: the same of the full prefill.
    """

    kl: float
    first_token_kl: float
    top1_agreement: float
    cpu_share: float
    tokens_recomputed: int
    right: bool
    right_in_full: bool


EMPTY = np.empty(0, np.uint32)
