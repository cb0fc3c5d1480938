"""Facts that no chunk holds alone: a file's owner is named where one chunk ends, the file's number begins the next."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blend.passages import PassageSet
from kvquilt_codec.types import TokenIds
from kvquilt_router.evaluation.types import Case
from kvquilt_router.types import Prompt

OWNERS = (
    "Abara",
    "Baptiste",
    "Costello",
    "Dragan",
    "Eklund",
    "Farouk",
    "Gruber",
    "Halloran",
    "Iwasaki",
    "Jankowska",
    "Kimura",
    "Lundgren",
    "Mbeki",
    "Nordin",
    "Oyelaran",
    "Pellegrini",
    "Quispe",
    "Radcliffe",
    "Sorensen",
    "Takahashi",
    "Underhill",
    "Valdez",
    "Wozniak",
    "Yamamoto",
)
NUMBERS = ("access code", "locker number", "badge number", "ticket number")
FILES = 3
"""Files in a case, each of two chunks."""


@dataclass(frozen=True, slots=True, eq=False)
class FactSet:
    """Cases over filler that is made of the passages of a question set.

    Args:
        passages: of which the filler is; those kept for warming up are in no case.
        context_tokens: about so many tokens a case, all files together.
    """

    passages: PassageSet
    context_tokens: int
    name: str = "facts"

    @property
    def prefix(self) -> TokenIds:
        """As of the question set."""
        return self.passages.prefix

    def warm_ups(self) -> dict[str, list[TokenIds]]:
        """As of the question set."""
        return self.passages.warm_ups()

    def cases(self, count: int) -> Iterator[Case]:
        """The same number gives the same case. The question is about any file but the first."""
        frame, sentences = self.passages.frame, self.passages.sentences()
        each = self.context_tokens // (2 * FILES) - 16
        for number in range(count):
            rng = random.Random(f"facts {number}")
            owners, called = rng.sample(OWNERS, FILES), NUMBERS[number % len(NUMBERS)]
            digits = [str(value) for value in rng.sample(range(100, 1000), FILES)]
            documents: list[TokenIds] = []
            for owner, code in zip(owners, digits, strict=True):
                before, after = (filler(rng, sentences, each, frame.tokenise) for _ in range(2))
                documents.append(frame.tokenise(f"File of Dr. {owner}.\n{before}\nThis is the file of Dr. {owner}."))
                documents.append(frame.tokenise(f" The {called} in this file is {code}.\n{after}\n\n"))
            asked = rng.randrange(1, FILES)
            said = f"The {called} in the file of Dr. {owners[asked]} is"
            question = frame.question(f"What is the {called} in the file of Dr. {owners[asked]}?")
            question = np.concatenate([question, frame.tokenise(said)])
            answer = frame.tokenise(f"{said} {digits[asked]}")[len(frame.tokenise(said)) :]
            yield Case(f"facts-{number}", self.name, Prompt(self.prefix, tuple(documents), question), answer)


def filler(rng: random.Random, sentences: Sequence[str], tokens: int, tokenise: Callable[[str], TokenIds]) -> str:
    """Sentences in an order of chance, at most so many tokens."""
    chosen: list[str] = []
    left = tokens
    while (length := len(tokenise(" " + (sentence := rng.choice(sentences))))) <= left:
        chosen.append(sentence)
        left -= length
    return " ".join(chosen)
