"""The demo's steps, without printing: prefetch, ask, restart, ask again; every figure is measured in this run."""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kvquilt.cli.worker import Answer, Difference, Worker
from kvquilt.demo.corpus import QUESTIONS, WARM_UP, Question, passages
from kvquilt.demo.server import serving
from kvquilt.types import BlendReport, Document, PrefetchProgress
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
            "answer_kl": self.difference.answer_kl,
            "top1_agreement": self.difference.top1_agreement,
            "predicted_kl": report.predicted_kl,
            "gate_refusal": report.gate_refusal,
            "restarted": self.restarted,
            "answer": self.answer.text,
            "answer_full": self.full.text,
        }


@dataclass(frozen=True, slots=True)
class MeasuredLevel:
    """The last question once more, at a level of the profile in force.

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


def run(
    data_dir: Path,
    model: str,
    profile: str,
    max_tokens: int,
    runs: int,
    *,
    told: Callable[[str], None],
    prefetched: Callable[[PrefetchProgress], None],
) -> Iterator[Measured | MeasuredLevel]:
    """Run the demo; yields each question once before and once after the restart, its times medians of `runs`.

    With a codec profile (`router.profile`), each of its levels comes between the two.

    Raises:
        KvquiltError: a step failed, or a promise of the demo does not hold (a miss after the prefetch).
    """
    documents = passages()
    # Every order stays new to the cache, however often it is asked: a neighbour that was stored would not be.
    settings = [f"router.model={model}", f"router.profile={profile}", "router.pair_bytes=0"]
    told("starting kvquilt serve")
    with serving(data_dir, settings) as router:
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
            measured = _measured(worker, documents, question, max_tokens, runs, restarted=False)
            yield measured
        told("asking at every level")
        yield from _levels(worker, measured.full, _segments(documents, question), max_tokens)
    told("restarting the server")
    with serving(data_dir, settings) as router:
        worker.connect(router)
        told("warming up")
        worker.ask(_segments(documents, WARM_UP), max_tokens=1)
        for question in QUESTIONS:
            told("asking again, both ways")
            yield _measured(worker, documents, question, max_tokens, runs, restarted=True)
        worker.close()


def _levels(worker: Worker, full: Answer, segments: list[Any], max_tokens: int) -> Iterator[MeasuredLevel]:
    """A question at every level of the profile in force; nothing is stored for it."""
    profile = worker.client.status().models[0].profile
    for card in profile.levels if profile is not None else ():
        answer = worker.ask(segments, max_tokens=max_tokens, level=card.level)
        report = answer.filled.report if answer.filled is not None else None
        if report is None or _lost(report):
            raise KvquiltError(f"expected one stored object to serve level {card.level}; a chunk was missed")
        difference = worker.difference(full, answer)
        yield MeasuredLevel(
            card.level,
            report.fetched_bytes,
            report.bf16_bytes,
            difference.first_token_kl,
            difference.answer_kl,
            report.predicted_kl,
            difference.top1_agreement,
        )


def results(
    rows: Sequence[Measured], levels: Sequence[MeasuredLevel], model: str, profile: str, runs: int
) -> dict[str, Any]:
    """The content of `demo.json`."""
    return {
        "name": "demo",
        "version": VERSION,
        "conditions": {
            "model": model,
            "dtype": "float32",
            "profile": Path(profile).name,
            "runs": f"median of {runs}",
            "texts": f"{len(passages())} passages that ship with kvquilt",
            "threads": torch.get_num_threads(),
            "cpu": platform.processor() or platform.machine(),
            "torch": str(torch.__version__),
        },
        "rows": [row.row() for row in rows],
        "levels": [asdict(level) for level in levels],
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
    if filled is None or filled.report is None or _lost(filled.report):
        raise KvquiltError("expected every chunk of a prefetched prompt to be found; some were missed")
    full_s, kvquilt_s = [full.ttft_s], [answer.ttft_s]
    for _ in range(runs - 1):
        full_s.append(worker.ask_in_full(segments, max_tokens=1).ttft_s)
        kvquilt_s.append(worker.ask(segments, max_tokens=1).ttft_s)
    context = filled.report.chunks[-1].end
    difference = worker.difference(full, answer)
    return Measured(question.text, context, full, answer, difference, restarted, median(full_s), median(kvquilt_s))


def _lost(report: BlendReport) -> bool:
    """Whether a chunk was missed for another reason than that the gate keeps it out."""
    return any(chunk.miss_reason not in ("", "gate_closed") for chunk in report.chunks)


def _segments(documents: dict[str, Document], question: Question) -> list[Any]:
    return [*(documents[name].content for name in question.order), f"Question: {question.text} Answer in one sentence."]
