"""What was measured of many cases, one line a trial."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from kvquilt_router.evaluation.statistics import geometric_mean, ratio
from kvquilt_router.evaluation.types import Outcome, Trial

Measured = Mapping[str, Mapping[Trial, Outcome]]
"""By the case's name, what was tried on it and what came out."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One trial over all cases that it was tried on.

    Attributes:
        trial: what was tried.
        cases: how many.
        kl_geomean: geometric mean over cases of KL(full || blended), each the mean over the answer's tokens, nats.
        kl_ratio: geometric mean of the paired ratios to the reference, and the ends of its 95 % confidence interval (2
            standard errors); `None` without a reference, or cases that both were tried on.
        top1_agreement: mean share of the answers' tokens that both rank first.
        right: cases that a full prefill answers and the blend does too.
        right_in_full: cases that a full prefill answers.
        cpu_share: median CPU time relative to a full prefill.
        tokens_recomputed: mean.
    """

    trial: Trial
    cases: int
    kl_geomean: float
    kl_ratio: tuple[float, float, float] | None
    top1_agreement: float
    right: int
    right_in_full: int
    cpu_share: float
    tokens_recomputed: float

    @property
    def answer_agreement(self) -> float | None:
        """Share of the answers that full prefill gets right which stay right; `None` if it gets none."""
        return self.right / self.right_in_full if self.right_in_full else None

    def row(self, reference: str) -> dict[str, Any]:
        """What tables of all kinds say of it; `reference` names what `kl_ratio` is relative to."""
        relative = self.kl_ratio
        return {
            "policy": self.trial.policy,
            "variant": self.trial.variant,
            "level": self.trial.level,
            "recompute_ratio": self.trial.recompute_ratio,
            "kl_geomean": self.kl_geomean,
            f"kl_vs_{reference}": None if relative is None else relative[0],
            f"kl_vs_{reference}_ci": None if relative is None else list(relative[1:]),
            "top1_agreement": self.top1_agreement,
            "answer_agreement": self.answer_agreement,
            "cpu_vs_full": self.cpu_share,
            "cases": self.cases,
        }


def summarise(measured: Measured, reference: Trial | None = None) -> list[Summary]:
    """One line a trial, in the order in which they were first tried."""
    trials = dict.fromkeys(trial for tried in measured.values() for trial in tried)
    return [_line(trial, measured, reference) for trial in trials]


def _line(trial: Trial, measured: Measured, reference: Trial | None) -> Summary:
    found = [tried[trial] for tried in measured.values() if trial in tried]
    pairs = [
        (tried[trial].kl, tried[reference].kl)
        for tried in measured.values()
        if reference is not None and trial in tried and reference in tried
    ]
    return Summary(
        trial,
        len(found),
        geometric_mean([outcome.kl for outcome in found]),
        ratio(*zip(*pairs, strict=True)) if pairs else None,
        fmean(outcome.top1_agreement for outcome in found),
        sum(outcome.right and outcome.right_in_full for outcome in found),
        sum(outcome.right_in_full for outcome in found),
        median(outcome.cpu_share for outcome in found),
        fmean(outcome.tokens_recomputed for outcome in found),
    )


def coverage(kl: Iterable[float], bound: float) -> float:
    """Share of divergences within a bound."""
    values = list(kl)
    return sum(value <= bound for value in values) / len(values)
