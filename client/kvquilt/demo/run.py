"""The demo's steps, without printing: prefetch, ask, restart, ask again; every figure is measured in this run."""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kvquilt.cli.worker import Answer, Difference, Worker
from kvquilt.demo.corpus import QUESTIONS, WARM_UP, Question, passages
from kvquilt.demo.server import serving
from kvquilt.types import Document, PrefetchProgress
from kvquilt_codec.errors import KvquiltError, UnavailableError
from kvquilt_rpc.version import VERSION


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One question, answered with kvquilt and after a full prefill.

    Attributes:
        question: the text.
        context_tokens: tokens before the question's.
        full: the full prefill's answer.
        answer: kvquilt's answer.
        difference: between the two.
        restarted: whether the server had been restarted since the prefetch.
        ttft_full_s: median of some full prefills, in seconds.
        ttft_kvquilt_s: median of as many blends; the two alternate, so that a slow moment of the machine hits both.
    """

    question: str
    context_tokens: int
    full: Answer
    answer: Answer
    difference: Difference
    restarted: bool
    ttft_full_s: float
    ttft_kvquilt_s: float

    def row(self) -> dict[str, Any]:
        """Row of `demo.json`."""
        report = self.answer.filled.report if self.answer.filled is not None else None
        if report is None:
            raise UnavailableError("expected the cache to help; it could not: see the server's log")
        return {
            "question": self.question,
            "context_tokens": self.context_tokens,
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
            "top1_agreement": self.difference.top1_agreement,
            "predicted_kl": None,
            "restarted": self.restarted,
            "answer": self.answer.text,
            "answer_full": self.full.text,
        }


def run(
    data_dir: Path,
    model: str,
    max_tokens: int,
    runs: int,
    *,
    told: Callable[[str], None],
    prefetched: Callable[[PrefetchProgress], None],
) -> Iterator[Measured]:
    """Run the demo; yields each question once before and once after the restart, its times medians of `runs`.

    Raises:
        KvquiltError: a step failed, or a promise of the demo does not hold (a miss after the prefetch).
    """
    documents = passages()
    told("starting kvquilt serve")
    with serving(data_dir, [f"router.model={model}"]) as router:
        told("loading the worker's model")
        worker = Worker(model, router)
        told("prefetching")
        for item in worker.client.prefetch(list(documents.values())):
            prefetched(item)
            if item.failed:
                raise KvquiltError(f"expected every chunk to be stored; {item.failure_reason}")
        told("warming up, both ways")
        worker.ask_in_full(_segments(documents, WARM_UP), max_tokens=1)
        worker.ask(_segments(documents, WARM_UP), max_tokens=1)
        for question in QUESTIONS:
            told("asking, both ways")
            yield _measured(worker, documents, question, max_tokens, runs, restarted=False)
    told("restarting the server")
    with serving(data_dir, [f"router.model={model}"]) as router:
        worker.connect(router)
        told("warming up")
        worker.ask(_segments(documents, WARM_UP), max_tokens=1)
        for question in QUESTIONS:
            told("asking again, both ways")
            yield _measured(worker, documents, question, max_tokens, runs, restarted=True)
        worker.close()


def results(rows: Sequence[Measured], model: str, runs: int) -> dict[str, Any]:
    """The content of `demo.json`."""
    return {
        "name": "demo",
        "version": VERSION,
        "conditions": {
            "model": model,
            "dtype": "float32",
            "runs": f"median of {runs}",
            "texts": f"{len(passages())} passages that ship with kvquilt",
            "threads": torch.get_num_threads(),
            "cpu": platform.processor() or platform.machine(),
            "torch": str(torch.__version__),
        },
        "rows": [row.row() for row in rows],
    }


def _measured(
    worker: Worker,
    documents: dict[str, Document],
    question: Question,
    max_tokens: int,
    runs: int,
    *,
    restarted: bool,
) -> Measured:
    segments = _segments(documents, question)
    full = worker.ask_in_full(segments, max_tokens=max_tokens)
    answer = worker.ask(segments, max_tokens=max_tokens)
    filled = answer.filled
    if filled is None or filled.report is None or not filled.report.hit:
        raise KvquiltError("expected every chunk of a prefetched prompt to be found; some were missed")
    full_s, kvquilt_s = [full.ttft_s], [answer.ttft_s]
    for _ in range(runs - 1):
        full_s.append(worker.ask_in_full(segments, max_tokens=1).ttft_s)
        kvquilt_s.append(worker.ask(segments, max_tokens=1).ttft_s)
    context = filled.report.chunks[-1].end
    difference = worker.difference(full, answer)
    return Measured(question.text, context, full, answer, difference, restarted, median(full_s), median(kvquilt_s))


def _segments(documents: dict[str, Document], question: Question) -> list[Any]:
    return [*(documents[name].content for name in question.order), f"Question: {question.text} Answer in one sentence."]
