"""The cases, and how one is measured: off and on in turn, on the same prompts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ttft.types import Engine, RagPrompt, Shot


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Attributes:
        name: of the row.
        tokens: of the documents.
        most: the most that TTFT with kvquilt may be of the engine's own.
        slack: seconds that it may take beyond that: what the engine may wait for a router.
        extent: what engines that can choose ask for; `auto` leaves it to the router's estimates.
        kinds: of tokens that most of a prompt must be of with kvquilt; else something other than the case was measured.
    """

    name: str
    tokens: int
    most: float
    slack: float = 0.0
    extent: str = "auto"
    kinds: tuple[str, ...] = ("computed",)


BLENDED = Case("blended-2000", 2000, 0.35, extent="prompt", kinds=("reused", "recomputed"))
EXACT = Case("exact-4000", 4000, 0.15, extent="exact", kinds=("exact",))
MISS = Case("miss", 2000, 1.05)
DOWN = Case("router-down", 2000, 1.10)
ALL = (BLENDED, EXACT, MISS, DOWN)
KINDS = ("exact", "reused", "recomputed", "computed")
"""What became of tokens."""


def measure(
    engine: Engine,
    case: Case,
    prompts: Sequence[RagPrompt],
    told: Callable[[], None],
    *,
    pause: float = 0.0,
    **options: Any,
) -> dict[str, Any]:
    """A row of `ttft.json`. The first prompt warms up and does not count.

    Every prompt is computed without and with kvquilt, by turns one or the other first, so that a slow minute of the
    machine hits both.

    Args:
        engine: see there.
        case: see there.
        prompts: of the case.
        told: called after each.
        pause: seconds of rest before each request, off and on: vLLM's processes ask each other without a pause for a
            second after each step, and would have a core while the next request is loaded or computed.
        options: as of `Engine.on`.
    """

    def off(prompt: RagPrompt) -> Shot:
        time.sleep(pause)
        return engine.off(prompt)

    def on(prompt: RagPrompt) -> Shot:
        time.sleep(pause)
        return engine.on(prompt, case.extent, **options)

    pairs: list[tuple[Shot, Shot]] = []
    for number, prompt in enumerate(prompts):
        if number % 2:
            cached, plain = on(prompt), off(prompt)
        else:
            plain, cached = off(prompt), on(prompt)
        if number:
            pairs.append((plain, cached))
        told()
    return row(engine.name, case, [prompt.context_tokens for prompt in prompts[1:]], pairs)


def row(engine: str, case: Case, context_tokens: Sequence[int], pairs: Sequence[tuple[Shot, Shot]]) -> dict[str, Any]:
    """Medians over the prompts; the ratio is that of pairs, and with slack that of what is beyond it."""
    tokens = {kind: int(median(on.tokens.get(kind, 0) for _, on in pairs)) for kind in KINDS}
    ratios = [(on.ttft_s - case.slack) / off.ttft_s for off, on in pairs]
    return {
        "engine": engine,
        "case": case.name,
        "context_tokens": int(median(context_tokens)),
        "ttft_off_s": median(off.ttft_s for off, _ in pairs),
        "ttft_on_s": median(on.ttft_s for _, on in pairs),
        "ratio": median(ratios),
        "worst_ratio": max(ratios),
        "most": case.most,
        "slack_s": case.slack,
        "first_token_kl": median(off.first.kl(on.first) for off, on in pairs),
        "worst_first_token_kl": max(off.first.kl(on.first) for off, on in pairs),
        "top1_agreement": sum(int(off.first.ids[0] == on.first.ids[0]) for off, on in pairs) / len(pairs),
        **{f"tokens_{kind}": count for kind, count in tokens.items()},
        "as_meant": sum(tokens[kind] for kind in case.kinds) > sum(tokens.values()) / 2,
        "requests": len(pairs),
        "notes": sorted({on.note for _, on in pairs if on.note}),
    }


def figure(row: dict[str, Any]) -> dict[str, Any]:
    """What the row was to reach, and whether it does."""
    return {
        "figure": f"{row['engine']}, {row['case']}",
        "ratio": row["ratio"],
        "at_most": row["most"],
        "reached": "not measured" if not row["as_meant"] else "yes" if row["ratio"] <= row["most"] else "no",
    }


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is printed of rows: they are too wide."""
    names = ("engine", "case", "context_tokens", "ttft_off_s", "ttft_on_s", "ratio", "worst_ratio", "first_token_kl")
    return [
        {name: row[name] for name in names}
        | {"tokens exact, reused, recomputed, computed": [row[f"tokens_{kind}"] for kind in KINDS]}
        | {"how": ", ".join(row["notes"])}
        for row in rows
    ]
