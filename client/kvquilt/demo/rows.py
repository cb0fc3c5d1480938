"""What the demo measured, and the content of `demo.json`."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from statistics import fmean, median
from typing import Any

import torch

from kvquilt.cli.worker import Answer, Difference
from kvquilt.demo.profile import Proof
from kvquilt.types import BlendReport
from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.version import VERSION

NEW_ORDER, SAME_PREFIX, CONVERSATION = "new-order", "same-prefix", "conversation"
CASES = {
    NEW_ORDER: "passages in an order never seen",
    SAME_PREFIX: "the same passages, another question",
    CONVERSATION: "the next turn of a conversation",
}
_TINY = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One question, answered with kvquilt and after a full prefill.

    Attributes:
        case: one of `CASES`.
        question: the text.
        full: the full prefill's answer.
        answer: kvquilt's answer.
        difference: between the two.
        restarted: whether the server had been restarted since the prefetch; the full answer is then that from before.
        ttft_full_s: median of some full prefills, in seconds.
        ttft_kvquilt_s: median of as many with kvquilt; the two alternate, so that a slow moment hits both.
    """

    case: str
    question: str
    full: Answer
    answer: Answer
    difference: Difference
    restarted: bool
    ttft_full_s: float
    ttft_kvquilt_s: float

    @property
    def report(self) -> BlendReport:
        """What kvquilt did.

        Raises:
            UnavailableError: nothing.
        """
        report = self.answer.filled.report if self.answer.filled is not None else None
        if report is None:
            raise UnavailableError("expected the cache to help; it could not: see the server's log")
        return report

    @property
    def ratio(self) -> float:
        """TTFT with kvquilt, as a share of the full prefill's."""
        return self.ttft_kvquilt_s / self.ttft_full_s

    @property
    def same_answer(self) -> bool:
        """Whether both say the same words."""
        return self.answer.text == self.full.text

    def row(self) -> dict[str, Any]:
        """Row of `demo.json`."""
        report = self.report
        tokens = report.tokens_exact + report.tokens_reused + report.tokens_recomputed + report.tokens_computed
        return {
            "case": self.case,
            "question": self.question,
            "prompt_tokens": tokens,
            "ttft_full_s": self.ttft_full_s,
            "ttft_kvquilt_s": self.ttft_kvquilt_s,
            "tokens_exact": report.tokens_exact,
            "tokens_reused": report.tokens_reused,
            "tokens_recomputed": report.tokens_recomputed,
            "tokens_computed": report.tokens_computed,
            "chunks": len(report.chunks),
            "chunks_missed": sum(bool(chunk.miss_reason) for chunk in report.chunks),
            "bytes_fetched": report.fetched_bytes,
            "bytes_bf16": report.bf16_bytes,
            "policy": report.policy,
            "recompute_ratio": report.recompute_ratio,
            "first_token_kl": self.difference.first_token_kl,
            "answer_kl": self.difference.answer_kl,
            "top1_agreement": self.difference.top1_agreement,
            "predicted_kl": report.predicted_kl,
            "gate_refusal": report.gate_refusal,
            "restarted": self.restarted,
            "same_answer": self.same_answer,
            "answer": self.answer.text,
            "answer_full": self.full.text,
        }


@dataclass(frozen=True, slots=True)
class MeasuredLevel:
    """A question once more, at a level of the profile in force.

    Attributes:
        level: by name.
        bytes_fetched: of the prompt's chunks, the shared prefix (always lossless) included.
        bytes_bf16: what the fetched tensors take as bfloat16.
        first_token_kl: KL(full || blended) of the first answer token, in nats; most of it comes from blending.
        answer_kl: mean of the same over the answer.
        predicted_kl: what the gate says it stays below.
        top1_agreement: share of the full prefill's answer tokens that are ranked first too.
    """

    level: str
    bytes_fetched: int
    bytes_bf16: int
    first_token_kl: float
    answer_kl: float
    predicted_kl: float | None
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All questions of one case.

    Attributes:
        case: one of `CASES`.
        questions: how many.
        ttft_ratio: median.
        ttft_ratio_worst: largest.
        answer_kl: geometric mean.
        answer_kl_worst: largest.
        predicted_kl: the largest bound that was predicted; `None`: of some nothing was.
        beyond_predicted: questions whose divergence is beyond what was predicted of them.
        top1_agreement: mean.
        same_answers: questions that both answer in the same words.
    """

    case: str
    questions: int
    ttft_ratio: float
    ttft_ratio_worst: float
    answer_kl: float
    answer_kl_worst: float
    predicted_kl: float | None
    beyond_predicted: int
    top1_agreement: float
    same_answers: int

    @classmethod
    def of(cls, case: str, measured: Sequence[Measured]) -> "Summary":
        """Of one or more questions."""
        ratios = [m.ratio for m in measured]
        kl = [m.difference.answer_kl for m in measured]
        bounds = [m.report.predicted_kl for m in measured]
        known = [bound for bound in bounds if bound is not None]
        return cls(
            case,
            len(measured),
            median(ratios),
            max(ratios),
            exp(fmean(log(max(value, _TINY)) for value in kl)),
            max(kl),
            max(known) if len(known) == len(bounds) else None,
            sum(bound is not None and value > bound for value, bound in zip(kl, bounds, strict=True)),
            fmean(m.difference.top1_agreement for m in measured),
            sum(m.same_answer for m in measured),
        )


def summaries(measured: Sequence[Measured], *, restarted: bool) -> list[Summary]:
    """By case, of the questions before or after the restart."""
    chosen = [m for m in measured if m.restarted == restarted]
    cases = {case: [m for m in chosen if m.case == case] for case in CASES}
    return [Summary.of(case, of_case) for case, of_case in cases.items() if of_case]


def results(
    measured: Sequence[Measured],
    levels: Sequence[MeasuredLevel],
    model: str,
    proof: Proof,
    runs: int,
    passages: int,
    seconds: float,
) -> dict[str, Any]:
    """The content of `demo.json`."""
    return {
        "name": "demo",
        "version": VERSION,
        "conditions": {
            "model": model,
            "dtype": "float32",
            "profile": proof.name,
            "measured": proof.origin,
            "measured_with": proof.words,
            "runs": f"median of {runs}",
            "texts": f"{passages} passages that ship with kvquilt",
            "threads": torch.get_num_threads(),
            "cpu": platform.processor() or platform.machine(),
            "torch": str(torch.__version__),
            "seconds": seconds,
        },
        "summary": [asdict(s) for s in summaries(measured, restarted=False)],
        "summary_restarted": [asdict(s) for s in summaries(measured, restarted=True)],
        "rows": [m.row() for m in measured],
        "levels": [asdict(level) for level in levels],
    }
