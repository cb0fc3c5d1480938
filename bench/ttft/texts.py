"""Questions and passages of bench/texts/qa: those that the gate is measured on, and those that prompts are made of."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvquilt_router.calibration.texts import Corpus, Piece
from kvquilt_router.engine import LoadedModel

FOLDER = Path(__file__).parent.parent / "texts" / "qa"
KINDS = ("single-hop", "multi-hop")
HEAD = "Read the passages and then answer the question in one short sentence.\n\n"
_WARMING = 8
"""Of the gate's questions of each kind, those whose passages are only computed before others."""

_WARMING_EACH = 4
"""Of each kind, passages that a prefetch computes others after."""


class Passage(msgspec.Struct, frozen=True):
    """A passage of an encyclopaedia."""

    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.title}\n{self.text}\n\n"


class Question(msgspec.Struct, frozen=True):
    """A question, and the passages that it came with."""

    question: str
    answer: str
    passages: tuple[Passage, ...]


def asked(part: int) -> list[list[Question]]:
    """Of each kind, the questions of one part of four. The gate is measured on parts 1 and 3."""
    return [_read(kind)[part::4] for kind in KINDS]


def passages_of(kind: str) -> set[str]:
    """The passages of the parts that the gate is not measured on."""
    return {str(passage) for question in _read(kind)[::2] for passage in question.passages}


def measured(model: LoadedModel) -> Corpus:
    """What the gate is measured on: passages of the other questions, of which some are only warmed up with."""
    used = {passage for kind in KINDS for passage in passages_of(kind)}
    warming, prompts = [], []
    for kind in KINDS:
        for number, text in enumerate(_others(kind, used)):
            (warming if number < _WARMING else prompts).append(Piece(model.tokenise(text), kind))
    return Corpus(tuple(warming), tuple(prompts), "passages of bench/texts/qa that no blended prompt holds")


def warm_up_passages() -> list[str]:
    """Passages to compute others after: some of each kind, of those that the gate was measured on."""
    return [str(question.passages[0]) for questions in asked(1) for question in questions[:_WARMING_EACH]]


def _others(kind: str, used: set[str]) -> Iterator[str]:
    for question in _read(kind)[1::2]:
        text = "".join(str(passage) for passage in question.passages if str(passage) not in used)
        if text:
            yield text


def _read(kind: str) -> list[Question]:
    lines = (FOLDER / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [msgspec.json.decode(line, type=Question) for line in lines]
