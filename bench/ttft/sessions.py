"""Sessions to replay, from a seeded recipe: conversations that grow, and questions over passages that come back.

Lengths are those of AzureLLMInference-2023 (AzurePublicDataset, CC BY 4.0): its deciles, or the file's own rows. Texts
are those of bench/texts; answers are text too, so that a session is the same in every run.
"""

import csv
import gzip
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttft.texts import asked

TRACE = Path("traces") / "azure_llm_2023_conv.csv.gz"
_PROMPT_DECILES = (207, 387, 403, 703, 1020, 1071, 1130, 1315, 2735)
_ANSWER_DECILES = (54, 77, 91, 103, 129, 177, 384, 400, 424)
_MOST_TOKENS = 1500
"""Of a first prompt: later turns add to it, and the demo model's context is short."""
PROSE = ("documentation", "encyclopaedia", "licence", "satire")


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session: what precedes the question, piece by piece, and the question."""

    documents: tuple[str, ...]
    question: str


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens to draw from, of first prompts and of answers, and where they are from."""

    prompts: Sequence[int]
    answers: Sequence[int]
    source: str


def lengths(data: Path | None) -> Lengths:
    """From the trace, or its deciles where it is not there."""
    if data is None or not (data / TRACE).is_file():
        return Lengths(_PROMPT_DECILES, _ANSWER_DECILES, "deciles of AzureLLMInference-2023")
    with gzip.open(data / TRACE, "rt", encoding="utf-8") as file:
        rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    return Lengths([prompt for prompt, _ in rows], [answer for _, answer in rows], "rows of AzureLLMInference-2023")


def conversations(count: int, turns: int, drawn: Lengths, words: "Words", rng: random.Random) -> list[list[Turn]]:
    """Chats: every turn's prompt is the turn before with its answer, and a new question after it."""
    sessions = []
    for _ in range(count):
        opening = words.piece(min(rng.choice(drawn.prompts), _MOST_TOKENS), rng)
        history, session = [opening + "\n\n"], []
        for number in range(turns):
            question = f"Question {number + 1}: {rng.choice(QUESTIONS)}\n"
            session.append(Turn(tuple(history), question))
            history.append(f"{question}Answer: {words.piece(rng.choice(drawn.answers), rng)}\n\n")
        sessions.append(session)
    return sessions


def rag_sessions(count: int, turns: int, drawn: Lengths, words: "Words", rng: random.Random) -> list[list[Turn]]:
    """Questions over a topic: every turn retrieves some of its passages, ranked anew, and the talk so far follows them.

    In the manner of MTRAG (Katsis et al., 2025): a passage that is retrieved comes back in later turns at other places.
    """
    of_kind = [question for questions in asked(2) for question in questions]
    sessions = []
    for _ in range(count):
        topic = [str(passage) for question in rng.sample(of_kind, 8) for passage in question.passages][:12]
        talk, session = "", []
        for number in range(turns):
            found = rng.sample(topic, min(8, len(topic)))
            question = f"Question {number + 1}: {rng.choice(QUESTIONS)}\n"
            session.append(Turn(tuple(found), talk + question))
            talk += f"{question}Answer: {words.piece(min(rng.choice(drawn.answers), 100), rng)}\n\n"
        sessions.append(session)
    return sessions


QUESTIONS = (
    "What is the most important point in this?",
    "Who is named first, and why?",
    "Which part would you leave out?",
    "Say it again in one sentence.",
)


class Words:
    """Pieces of texts, so many tokens long.

    Args:
        texts: to take from.
        count: how many tokens a text has.
    """

    def __init__(self, texts: Sequence[str], count: Callable[[str], int]) -> None:
        self._texts = [text.split(" ") for text in texts]
        self._per_word = [count(text) / len(words) for text, words in zip(texts, self._texts, strict=True)]

    def piece(self, tokens: int, rng: random.Random) -> str:
        """About so many tokens from somewhere in a text; the text begins anew where it ends."""
        number = rng.randrange(len(self._texts))
        words, begin = self._texts[number], rng.randrange(len(self._texts[number]))
        length = max(int(tokens / self._per_word[number]), 1)
        return " ".join(words[(begin + offset) % len(words)] for offset in range(length))
