"""What is tried on every case."""

from blend.types import DEFAULT_WARM_UP, OTHER_GENRE, PASSAGES
from kvquilt_router.evaluation.types import ALONE, BASE, EXACT, HALF_PAIR, PAIR, WARM, Trial
from kvquilt_router.evaluation.ways import DEVIATION_ONCE, PARALLEL, PARALLEL_PLAIN

DEFAULT = "question-deviation"


def trial(policy: str, ratio: float, variant: str, level: str = "", warm_up: str = DEFAULT_WARM_UP) -> Trial:
    """Warm-up passages are named for every variant: how far a chunk depends on its context is measured with them."""
    return Trial(policy, ratio, variant, level, warm_up)


CACHEBLEND = trial(DEVIATION_ONCE, 0.1, ALONE)
"""What all ratios are relative to: CacheBlend as released, its chunks computed alone."""

WARM_UPS = (*(f"{count} passages" for count in PASSAGES), OTHER_GENRE)

CORE = (
    CACHEBLEND,
    *(trial("none", 0.0, variant) for variant in (ALONE, BASE, PAIR, WARM)),
    trial(DEVIATION_ONCE, 0.15, ALONE),
    trial("deviation", 0.1, ALONE),
    trial(DEVIATION_ONCE, 0.1, WARM),
    trial("random", 0.1, BASE),
    trial("first-tokens", 0.1, ALONE),
    trial("question", 0.1, WARM),
    *(trial(DEFAULT, 0.1, variant) for variant in (BASE, HALF_PAIR, PAIR, WARM)),
    trial(DEFAULT, 0.05, WARM),
    *(trial(DEFAULT, 0.2, variant) for variant in (PAIR, WARM)),
)
CODED = (trial(DEFAULT, 0.1, WARM, "high"),)
"""Through the codec, with the demo model's profile."""

WARM_UP = (
    *(trial("none", 0.0, WARM, warm_up=name) for name in WARM_UPS),
    *(trial(DEFAULT, 0.1, WARM, warm_up=name) for name in WARM_UPS),
    *(trial(policy, ratio, BASE) for policy, ratio in (("none", 0.0), (DEFAULT, 0.1))),
)
"""How many passages to warm up with, and of which kind."""

MORE = (
    trial("none", 0.0, HALF_PAIR),
    trial("deviation", 0.15, ALONE),
    *(trial(DEVIATION_ONCE, 0.1, variant) for variant in (BASE, PAIR)),
    *(trial("random", 0.1, variant) for variant in (ALONE, WARM)),
    trial("first-tokens", 0.1, BASE),
    *(trial("dual-stage", 0.1, variant) for variant in (ALONE, BASE)),
    *(trial("contextual", 0.1, variant) for variant in (PAIR, WARM)),
    *(trial("question", 0.1, variant) for variant in (BASE, PAIR)),
    *(trial(name, 0.0, BASE) for name in (PARALLEL, PARALLEL_PLAIN)),
    *(trial(DEFAULT, ratio, BASE) for ratio in (0.05, 0.2, 0.3)),
    *(trial(DEFAULT, ratio, HALF_PAIR) for ratio in (0.05, 0.2)),
    *(trial(DEFAULT, ratio, PAIR) for ratio in (0.05, 0.3)),
    trial(DEFAULT, 0.3, WARM),
    trial("full", 1.0, BASE),
)
"""The other policies, ratios and variants: as long again."""

MORE_CODED = (
    trial("none", 0.0, EXACT, "high"),
    *(trial(DEFAULT, 0.1, variant, "high") for variant in (BASE, PAIR)),
    trial(DEFAULT, 0.2, WARM, "high"),
    trial(DEFAULT, 0.1, WARM, "medium"),
)

QUICK = (
    *(trial("none", 0.0, variant) for variant in (BASE, WARM)),
    CACHEBLEND,
    *(trial(DEFAULT, 0.1, variant) for variant in (BASE, WARM)),
    trial("full", 1.0, BASE),
)
"""A smoke run."""


STUDIES = ("core", "warm-up", "more")
"""What a run measures."""


def chosen(study: str, *, quick: bool, coded: bool) -> tuple[Trial, ...]:
    """Trials of a run."""
    if quick:
        return QUICK
    if study == "warm-up":
        return WARM_UP
    core = (*CORE, *(CODED if coded else ()))
    return core if study == "core" else (*core, *MORE, *(MORE_CODED if coded else ()))
