"""TTFT and divergence per policy and ratio, beside a full prefill in the same run. Writes results/ttft.json.

Router and node run in one process, the worker in another, on the demo's passages, in 8 bits and with the demo model's
codec profile, which is made first if there is none. Every figure is the median of three; full prefills and blends
alternate, so that a slow minute of the machine hits both.
"""

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from kvquilt.cli.worker import Worker
from kvquilt.demo.corpus import QUESTIONS, WARM_UP, Question, passages
from kvquilt.demo.profile import made_once
from kvquilt.demo.server import serving
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.calibration.progress import silent
from kvquilt_router.engine import load_model
from kvquilt_router.evaluation.judge import ANSWER_TOKENS
from report import publish

RUNS = 3
SETTINGS = ("router.ungated=true", "router.background=false")
"""Every policy is tried, measured by a gate or not, on chunks that stay as the prefetch left them."""
Cases = tuple[tuple[str, float, str], ...]
"""Policy, share of reused tokens to recompute, level."""
WITHOUT_PROFILE: Cases = (
    ("none", 0.0, "high"),
    ("random", 0.10, "high"),
    ("first-tokens", 0.10, "high"),
    ("deviation", 0.15, "high"),
    ("question-deviation", 0.10, "high"),
    ("full", 1.0, "high"),
)
WITH_PROFILE: Cases = (
    ("question-deviation", 0.05, "high"),
    ("question-deviation", 0.10, "high"),
    ("question-deviation", 0.20, "high"),
    ("question-deviation", 0.20, "medium"),
    ("question-deviation", 0.20, "lossless"),
)


def main() -> None:
    profile = made_once(load_model("smollm2"), shipped_texts, lambda: print("calibrating, some minutes"), silent)
    rows = [*run("", "8 bits", WITHOUT_PROFILE), *run(str(profile), "with a profile", WITH_PROFILE)]
    conditions = {"model": "smollm2", "dtype": "float32", "texts": "the demo's passages", "runs": f"median of {RUNS}"}
    publish("ttft", conditions, rows)


def run(profile: str, called: str, cases: Cases) -> list[dict[str, Any]]:
    """All cases on a server with this codec profile; empty for none."""
    documents = passages()
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), [f"router.profile={profile}", *SETTINGS]) as router,
    ):
        worker = Worker("smollm2", router)
        for level in sorted({level for _, _, level in cases} - {"medium"}):
            list(worker.client.prefetch(list(documents.values()), level=level))

        def segments(question: Question) -> list[Any]:
            return [*(documents[name].content for name in question.order), f"Question: {question.text}"]

        worker.ask_in_full(segments(WARM_UP), max_tokens=1)
        worker.ask(segments(WARM_UP), max_tokens=1)
        for policy, ratio, level in cases:
            case = f"{policy} {ratio:.0%}, {level}" + ("" if level == "lossless" else f" {called}")
            rows.append(measure(worker, case, segments, policy=policy, recompute_ratio=ratio, level=level))
        worker.close()
    return rows


def measure(worker: Worker, case: str, segments: Any, **options: Any) -> dict[str, Any]:
    off, on, kl, answer_kl = [], [], [], []
    context = 0
    for question in QUESTIONS[:RUNS]:
        full = worker.ask_in_full(segments(question), max_tokens=ANSWER_TOKENS)
        answer = worker.ask(segments(question), max_tokens=1, **options)
        off.append(full.ttft_s)
        on.append(answer.ttft_s)
        difference = worker.difference(full, answer)
        kl.append(difference.first_token_kl)
        answer_kl.append(difference.answer_kl)
        if answer.filled is not None and answer.filled.report is not None:
            context = answer.filled.report.chunks[-1].end
    return {
        "engine": "transformers",
        "case": case,
        "context_tokens": context,
        "ttft_off_s": median(off),
        "ttft_on_s": median(on),
        "ratio": median(b / a for a, b in zip(off, on, strict=True)),
        "first_token_kl": median(kl),
        "answer_kl": median(answer_kl),
    }


if __name__ == "__main__":
    main()
