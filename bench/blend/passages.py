"""Questions over passages, from public question-answering sets (texts/NOTICE)."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from blend.texts import openings
from blend.types import OTHER_GENRE, PASSAGES
from kvquilt_codec.types import TokenIds
from kvquilt_router.evaluation.types import EMPTY, Case
from kvquilt_router.types import Prompt

TEXTS = Path(__file__).parent.parent / "texts" / "qa"
HEAD = "Read the passages and then answer the question in one short sentence.\n\n"


class Passage(msgspec.Struct, frozen=True):
    title: str
    text: str


class Question(msgspec.Struct, frozen=True):
    question: str
    answer: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Tokens around every prompt."""

    tokenise: Callable[[str], TokenIds]
    head: str
    tail: str

    @property
    def prefix(self) -> TokenIds:
        return self.tokenise(self.head + HEAD)

    def passage(self, passage: Passage) -> TokenIds:
        return self.tokenise(f"{passage.title}\n{passage.text}\n\n")

    def question(self, text: str) -> TokenIds:
        return self.tokenise(f"Question: {text}" + self.tail)


def read(name: str) -> list[Question]:
    lines = (TEXTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [msgspec.json.decode(line, type=Question) for line in lines]


@dataclass(frozen=True, slots=True, eq=False)
class PassageSet:
    """Cases over one set of questions; passages for warming up are kept out of them.

    Args:
        name: of the set.
        frame: of the prompts.
        context_tokens: about so many tokens of passages a case.
        kept_for_warm_up: the last so many passages are in no case.
    """

    name: str
    frame: Frame
    context_tokens: int
    kept_for_warm_up: int = 24

    def _parts(self) -> tuple[list[Question], list[Passage]]:
        questions = read(self.name)
        count = 0
        for cut in range(len(questions) - 1, -1, -1):
            count += len(questions[cut].passages)
            if count >= self.kept_for_warm_up:
                return questions[:cut], [p for q in questions[cut:] for p in q.passages][: self.kept_for_warm_up]
        raise ValueError(f"{self.name} has too few passages")

    @property
    def prefix(self) -> TokenIds:
        """Head of the chat template, and the instruction."""
        return self.frame.prefix

    def warm_ups(self) -> dict[str, list[TokenIds]]:
        """The first of the passages that no case has; prose of another genre."""
        kept = [self.frame.passage(passage) for passage in self._parts()[1]]
        return {f"{count} passages": kept[:count] for count in PASSAGES} | {
            OTHER_GENRE: openings(("satire", "licence", "documentation"), self.frame.tokenise, 2)[:4]
        }

    def sentences(self) -> list[str]:
        """Of the passages that cases are made of."""
        texts = (passage.text for question in self._parts()[0] for passage in question.passages)
        cut = (sentence.strip() for text in texts for sentence in text.replace("\n", " ").split(". "))
        return [f"{sentence.rstrip('.')}." for sentence in cut if len(sentence) > 30]

    def cases(self, count: int) -> Iterator[Case]:
        """Each question over its own passages and some of other questions, in random order."""
        questions = self._parts()[0]
        pool = [passage for question in questions for passage in question.passages]
        for number, question in enumerate(questions[:count]):
            rng = random.Random(f"{self.name} {number}")
            own = {passage.title for passage in question.passages}
            chosen = [self.frame.passage(passage) for passage in question.passages]
            others = [passage for passage in pool if passage.title not in own]
            for passage in rng.sample(others, len(others)):
                if sum(map(len, chosen)) >= self.context_tokens:
                    break
                chosen.append(self.frame.passage(passage))
            rng.shuffle(chosen)
            documents = tuple(np.asarray(tokens) for tokens in chosen)
            prompt = Prompt(self.prefix, documents, self.frame.question(question.question))
            yield Case(f"{self.name}-{number}", self.name, prompt, EMPTY)
