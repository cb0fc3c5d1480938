"""Rows of results/blend.json."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from blend.edits import TRIALS as EDIT_TRIALS
from blend.record import Line
from blend.trials import CACHEBLEND
from kvquilt_codec.gate import Gate
from kvquilt_router.evaluation.table import Summary, coverage, summarise
from kvquilt_router.evaluation.types import WARM, Outcome, Trial

REUSE_AFTER_EDIT = EDIT_TRIALS[0]
QUESTIONS = "multi-hop + single-hop"


def measured(lines: Sequence[Line]) -> dict[str, dict[Trial, Outcome]]:
    """By case, everything that was tried on it."""
    found: dict[str, dict[Trial, Outcome]] = {}
    for line in lines:
        found.setdefault(line.case, {}).update({tried.trial: tried.outcome for tried in line.tried})
    return found


def rows(lines: Mapping[str, Sequence[Line]]) -> list[dict[str, Any]]:
    """Of every set, and of both sets of questions together first."""
    sets = {name: list(found) for name, found in lines.items() if found}
    both = [line for name in QUESTIONS.split(" + ") for line in sets.get(name, [])]
    if len({line.set for line in both}) == 2:
        sets = {QUESTIONS: both, **sets}
    return [row for name, found in sets.items() for row in _of_set(name, found)]


def _of_set(name: str, lines: Sequence[Line]) -> list[dict[str, Any]]:
    reused = {line.case: line.reused for line in lines}
    of_cases = measured(lines)
    result = []
    for summary in summarise(of_cases, CACHEBLEND):
        tokens = sum(reused[case] for case, tried in of_cases.items() if summary.trial in tried) / summary.cases
        result.append(_row(name, summary, tokens))
    return result


def _row(name: str, summary: Summary, reused: float) -> dict[str, Any]:
    trial = summary.trial
    return {
        "set": name,
        **summary.row("cacheblend10"),
        "warm_up": trial.warm_up if trial.variant == WARM else "",
        "answers_right_in_full": summary.right_in_full,
        "recomputed_share": summary.tokens_recomputed / reused if reused else None,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What is printed of the rows."""
    return [
        {
            "set": row["set"],
            "policy": row["policy"],
            "variant": " ".join(filter(None, (row["variant"], row["warm_up"], row["level"]))),
            "ratio": f"{row['recompute_ratio']:.0%}",
            "KL": f"{row['kl_geomean']:.2e}",
            "against CacheBlend 10 %": _relative(row["kl_vs_cacheblend10"], row["kl_vs_cacheblend10_ci"]),
            "top-1": f"{row['top1_agreement']:.1%}",
            "answers": "" if row["answer_agreement"] is None else f"{row['answer_agreement']:.0%}",
            "CPU": f"{row['cpu_vs_full']:.3f}",
            "cases": str(row["cases"]),
        }
        for row in rows
    ]


def _relative(ratio: float | None, interval: Sequence[float] | None) -> str:
    if ratio is None or interval is None:
        return ""
    return f"{ratio:.2g} [{interval[0]:.2g}, {interval[1]:.2g}]"


def edits(lines: Mapping[str, Sequence[Line]]) -> list[dict[str, Any]]:
    """Ways to go on after an edit, over all kinds of edits together."""
    every = [line for name, found in lines.items() if name.startswith("edit-") for line in found]
    return [
        {
            "policy": summary.trial.policy,
            "recompute_ratio": summary.trial.recompute_ratio,
            "answers_right": summary.right,
            "answers_right_in_full": summary.right_in_full,
            "kl_geomean": summary.kl_geomean,
            "kl_vs_reuse": None if summary.kl_ratio is None else summary.kl_ratio[0],
            "kl_vs_reuse_ci": None if summary.kl_ratio is None else list(summary.kl_ratio[1:]),
            "cpu_vs_full": summary.cpu_share,
            "cases": summary.cases,
        }
        for summary in summarise(measured(every), REUSE_AFTER_EDIT)
    ]


def codec_growth(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """KL through the codec relative to the same trial without it."""
    of_cases = measured(lines)
    result = []
    for trial in dict.fromkeys(trial for tried in of_cases.values() for trial in tried if trial.level):
        plain = replace(trial, level="")
        (summary,) = (each for each in summarise(of_cases, plain) if each.trial == trial)
        if summary.kl_ratio is None:
            continue
        result.append(
            {
                "policy": trial.policy,
                "variant": trial.variant,
                "level": trial.level,
                "recompute_ratio": trial.recompute_ratio,
                "kl_vs_no_codec": summary.kl_ratio[0],
                "kl_vs_no_codec_ci": list(summary.kl_ratio[1:]),
                "cases": summary.cases,
            }
        )
    return result


def gate_coverage(lines: Sequence[Line], gate: Gate | None) -> list[dict[str, Any]]:
    """Share of the cases whose divergence is within what the gate says of their operating point."""
    if gate is None:
        return []
    points = {point.key: point for point in gate.points}
    of_cases = measured(lines)
    result = []
    for trial in dict.fromkeys(trial for tried in of_cases.values() for trial in tried if trial.level):
        point = points.get((trial.policy, trial.recompute_ratio, trial.variant, trial.level))
        if point is None:
            continue
        kl = [tried[trial].kl for tried in of_cases.values() if trial in tried]
        result.append(
            {
                "policy": trial.policy,
                "context": trial.variant,
                "level": trial.level,
                "recompute_ratio": trial.recompute_ratio,
                "kl_upper": point.kl_upper,
                "gate_coverage": coverage(kl, point.kl_upper),
                "cases": len(kl),
            }
        )
    return result
