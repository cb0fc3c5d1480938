"""The demo's steps, without printing: prefetch, ask, restart, ask again; every figure is measured in this run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from kvquilt.cli.worker import Answer, Worker
from kvquilt.demo.corpus import CONVERSATION, QUESTIONS, SAME_PREFIX, WARM_UP, Question, passages
from kvquilt.demo.profile import Proof
from kvquilt.demo.rows import CONVERSATION as TALK
from kvquilt.demo.rows import NEW_ORDER, Measured, MeasuredLevel
from kvquilt.demo.rows import SAME_PREFIX as PREFIX
from kvquilt.demo.server import serving
from kvquilt.integrations.transformers import FilledCache
from kvquilt.types import BlendReport, Document, PrefetchProgress
from kvquilt.worker import Extent
from kvquilt_codec.errors import KvquiltError

_PATIENCE = 120.0
"""Seconds that the router may take: on a busy machine the demo gets slow, and does not fail."""

_Ask = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question of the demo.

    Attributes:
        case: one of `rows.CASES`.
        question: its text.
        ask: asks it with kvquilt; takes `max_tokens`.
    """

    case: str
    question: str
    ask: _Ask


def run(
    data_dir: Path,
    model: str,
    proof: Proof,
    max_tokens: int,
    runs: int,
    *,
    told: Callable[[str], None] = lambda _: None,
    prefetched: Callable[[PrefetchProgress], None] = lambda _: None,
) -> Iterator[Measured | MeasuredLevel]:
    """Run the demo; yields each question once before and once after the restart, its times medians of `runs`.

    With a codec profile, each of its levels comes between the two.

    Raises:
        KvquiltError: a step failed, or a promise of the demo does not hold (a miss after the prefetch).
    """
    documents = passages()
    # Every order stays new to the cache, however often it is asked: a neighbour that was stored would not be.
    settings = ["router.pair_bytes=0"]
    settings += [f"router.{name}={value}" for name, value in (("model", model), ("profile", proof.profile))]
    settings.append(f"router.gate={proof.gate}")
    told("starting kvquilt serve")
    with serving(data_dir, settings) as router:
        told("loading the worker's model")
        worker = Worker(model, router, deadline=_PATIENCE, plan_deadline=_PATIENCE)
        told("prefetching")
        for item in worker.client.prefetch(list(documents.values())):
            prefetched(item)
            if item.failed:
                raise KvquiltError(f"expected every chunk to be stored; {item.failure_reason}")
        told("warming up, both ways")
        worker.ask_in_full(_segments(documents, WARM_UP), max_tokens=1)
        worker.ask(_segments(documents, WARM_UP), max_tokens=1)
        questions: list[_Asked] = []
        before: list[Measured] = []
        for asked in _questions(worker, documents, max_tokens, told):
            told(f"question {len(questions) + 1}, both ways")
            questions.append(asked)
            before.append(_measured(worker, asked, max_tokens, runs))
            yield before[-1]
        told("asking at every level")
        first = _segments(documents, QUESTIONS[0])
        yield from _levels(worker, before[0].full, first, max_tokens)
    told("restarting the server")
    with serving(data_dir, settings) as router:
        worker.connect(router)
        told("warming up")
        worker.ask(_segments(documents, WARM_UP), max_tokens=1)
        for number, (asked, earlier) in enumerate(zip(questions, before, strict=True), 1):
            told(f"after the restart: question {number} of {len(questions)}")
            yield _again(worker, asked, earlier, max_tokens, runs)
        worker.close()


def _questions(
    worker: Worker, documents: dict[str, Document], max_tokens: int, told: Callable[[str], None]
) -> Iterator[_Asked]:
    """All questions; what the last two begin with is asked as without kvquilt, and saved, when their turn comes."""
    for question in QUESTIONS:
        yield _Asked(NEW_ORDER, question.text, partial(worker.ask, _segments(documents, question)))
    told("asking what the next questions begin with")
    first, second = (_segments(documents, question) for question in SAME_PREFIX)
    worker.save(worker.ask(first, max_tokens=max_tokens, extent=Extent.EXACT), wait=True)
    opening = [{"role": "user", "content": "".join(_segments(documents, CONVERSATION[0]))}]
    said = worker.ask_chat(opening, max_tokens=max_tokens, extent=Extent.EXACT)
    worker.save(said, wait=True)
    turn = [*opening, {"role": "assistant", "content": said.text}, {"role": "user", "content": CONVERSATION[1]}]
    yield _Asked(PREFIX, SAME_PREFIX[1].text, partial(worker.ask, second, extent=Extent.EXACT))
    yield _Asked(TALK, CONVERSATION[1], partial(worker.ask_chat, turn, extent=Extent.EXACT))


def _measured(worker: Worker, asked: _Asked, max_tokens: int, runs: int) -> Measured:
    answer, filled = _asked(asked, max_tokens)
    tokens = filled.input_ids[0].tolist()
    full = worker.in_full(tokens, max_tokens=max_tokens)
    full_s, kvquilt_s = [full.ttft_s], [answer.ttft_s]
    for _ in range(runs - 1):
        full_s.append(worker.in_full(tokens, max_tokens=1).ttft_s)
        kvquilt_s.append(asked.ask(max_tokens=1).ttft_s)
    difference = worker.difference(full, answer)
    return Measured(asked.case, asked.question, full, answer, difference, False, median(full_s), median(kvquilt_s))


def _again(worker: Worker, asked: _Asked, before: Measured, max_tokens: int, runs: int) -> Measured:
    """The same after the restart; the full prefill's answer cannot have changed, its time is measured anew."""
    answer, filled = _asked(asked, max_tokens)
    tokens = filled.input_ids[0].tolist()
    full_s, kvquilt_s = [worker.in_full(tokens, max_tokens=1).ttft_s], [answer.ttft_s]
    for _ in range(runs - 1):
        full_s.append(worker.in_full(tokens, max_tokens=1).ttft_s)
        kvquilt_s.append(asked.ask(max_tokens=1).ttft_s)
    difference = worker.difference(before.full, answer)
    seconds = (median(full_s), median(kvquilt_s))
    return Measured(asked.case, asked.question, before.full, answer, difference, True, *seconds)


def _asked(asked: _Asked, max_tokens: int) -> tuple[Answer, FilledCache]:
    answer = asked.ask(max_tokens=max_tokens)
    filled = answer.filled
    if filled is None or filled.report is None or _lost(filled.report):
        raise KvquiltError(
            f"expected stored text to be found; some was missed ({filled.fallback_reason if filled else ''}): "
            "see the server's log"
        )
    return answer, filled


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


def _lost(report: BlendReport) -> bool:
    """Whether a chunk was missed for another reason than that the gate keeps it out."""
    return any(chunk.miss_reason not in ("", "gate_closed") for chunk in report.chunks)


def _segments(documents: dict[str, Document], question: Question) -> list[Any]:
    return [*(documents[name].content for name in question.order), question.asked]
