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

REUSE = (
    *(trial("none", 0.0, variant) for variant in (ALONE, BASE, HALF_PAIR, PAIR)),
    *(trial("none", 0.0, WARM, warm_up=name) for name in WARM_UPS),
)
OTHERS = (
    CACHEBLEND,
    trial(DEVIATION_ONCE, 0.15, ALONE),
    trial("deviation", 0.1, ALONE),
    *(trial(DEVIATION_ONCE, 0.1, variant) for variant in (BASE, WARM)),
    trial("random", 0.1, BASE),
    trial("first-tokens", 0.1, ALONE),
    trial("dual-stage", 0.1, BASE),
    trial("contextual", 0.1, WARM),
    *(trial("question", 0.1, variant) for variant in (BASE, PAIR, WARM)),
    *(trial(name, 0.0, BASE) for name in (PARALLEL, PARALLEL_PLAIN)),
)
OURS = (
    *(trial(DEFAULT, ratio, variant) for variant in (BASE, PAIR, WARM) for ratio in (0.05, 0.1, 0.2)),
    trial(DEFAULT, 0.1, HALF_PAIR),
    *(trial(DEFAULT, 0.1, WARM, warm_up=name) for name in WARM_UPS if name != DEFAULT_WARM_UP),
)
CODED = (
    trial("none", 0.0, EXACT, "high"),
    *(trial(DEFAULT, 0.1, variant, "high") for variant in (BASE, PAIR, WARM)),
    trial(DEFAULT, 0.2, WARM, "high"),
    trial(DEFAULT, 0.1, WARM, "medium"),
)
"""Through the codec, with the demo model's profile."""

MORE = (
    *(trial("deviation", 0.15, variant) for variant in (ALONE, BASE)),
    trial(DEVIATION_ONCE, 0.1, PAIR),
    *(trial("random", 0.1, variant) for variant in (ALONE, WARM)),
    trial("first-tokens", 0.1, BASE),
    trial("dual-stage", 0.1, ALONE),
    trial("contextual", 0.1, PAIR),
    *(trial(DEFAULT, ratio, HALF_PAIR) for ratio in (0.05, 0.2)),
    *(trial(DEFAULT, 0.3, variant) for variant in (BASE, PAIR, WARM)),
    trial("full", 1.0, BASE),
)
"""What takes as long again and says little more."""

QUICK = (
    *(trial("none", 0.0, variant) for variant in (BASE, WARM)),
    CACHEBLEND,
    *(trial(DEFAULT, 0.1, variant) for variant in (BASE, WARM)),
    trial("full", 1.0, BASE),
)
"""A smoke run."""


def chosen(*, quick: bool, coded: bool, more: bool = False) -> tuple[Trial, ...]:
    """Trials of a run."""
    if quick:
        return QUICK
    return (*REUSE, *OTHERS, *OURS, *(CODED if coded else ()), *(MORE if more else ()))
