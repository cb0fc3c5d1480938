"""Prompts in the shape of retrieval-augmented generation, from a seeded recipe."""

import random
from collections.abc import Sequence

from transformers import AutoTokenizer

from kvquilt_router.engine.chat import chat_frame, tokenise
from kvquilt_router.engine.model import resolve
from ttft.texts import Question
from ttft.types import RagPrompt


class Prompts:
    """Makes prompts: tokenised part by part, as routers and workers do, and framed by the model's chat template.

    Args:
        model: see `resolve`.
    """

    def __init__(self, model: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(resolve(model), local_files_only=True)
        self._frame = chat_frame(self._tokenizer)

    def prompt(self, documents: Sequence[str], question: str) -> RagPrompt:
        """A question over these documents, in this order."""
        texts = (self._frame.head, *documents)
        asked = (*self._tokens(question), *self._tokens(self._frame.tail))
        return RagPrompt(tuple(documents), question, (*map(self._tokens, texts), asked))

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._tokens(text))

    def drawn(self, questions: Sequence[Sequence[Question]], count: int, tokens: int, seed: int) -> list[RagPrompt]:
        """Prompts over about so many tokens of passages of one kind each, the kinds in turn.

        The passages that belong to the question are among them; the others are drawn. Every order is drawn anew, so
        that no two prompts have the same passages in the same order.

        Args:
            questions: those of each kind; their passages are the pool.
            count: how many prompts.
            tokens: of the documents of one.
            seed: of the draws.
        """
        rng = random.Random(seed)
        made = []
        for number in range(count):
            of_kind = questions[number % len(questions)]
            asked = of_kind[rng.randrange(len(of_kind))]
            own = [str(passage) for passage in asked.passages]
            others = {str(passage): None for question in of_kind for passage in question.passages}
            pool = [passage for passage in others if passage not in own]
            rng.shuffle(pool)
            made.append(self.prompt(self._filled(own, pool, tokens, rng), f"Question: {asked.question}"))
        return made

    def _filled(self, own: list[str], pool: list[str], tokens: int, rng: random.Random) -> list[str]:
        """The question's own passages, and of the others as many as fit, shuffled."""
        chosen, length = list(own), sum(len(self._tokens(passage)) for passage in own)
        for passage in pool:
            more = len(self._tokens(passage))
            if length + more <= tokens:
                chosen.append(passage)
                length += more
        rng.shuffle(chosen)
        return chosen

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(tokenise(self._tokenizer, text).tolist()) if text else ()
