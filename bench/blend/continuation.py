"""Plain prose cut into consecutive chunks; divergence is measured on how it truly goes on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from blend.texts import PASSAGE_TOKENS, PROSE, openings, text
from blend.types import OTHER_GENRE, PASSAGES
from kvquilt_codec.types import TokenIds
from kvquilt_router.evaluation.types import Case
from kvquilt_router.types import Prompt

CHUNK_TOKENS = 256
QUESTION_TOKENS, ANSWER_TOKENS = 16, 48
STEP = 128


@dataclass(frozen=True, slots=True, eq=False)
class ContinuationSet:
    """Texts one after the other, ending within the last of them.

    Args:
        tokenise: of the model.
        head: tokens that every prompt begins with.
        context_tokens: at most so many tokens of text a case.
    """

    tokenise: Callable[[str], TokenIds]
    head: TokenIds
    context_tokens: int
    name: str = "continuation"

    @property
    def prefix(self) -> TokenIds:
        """The head, whatever it says."""
        return self.head

    def warm_ups(self) -> dict[str, list[TokenIds]]:
        """The beginnings of the texts, which are in no case; code as another genre."""
        kept = openings(PROSE, self.tokenise, 2)
        return {f"{count} passages": kept[:count] for count in PASSAGES} | {
            OTHER_GENRE: openings(("code-c", "code-python"), self.tokenise, 2)
        }

    def cases(self, count: int) -> Iterator[Case]:
        """The texts take turns in being the last; each time round the end is earlier."""
        texts = [self.tokenise(text(name))[2 * PASSAGE_TOKENS :] for name in PROSE]
        for number in range(count):
            last = number % len(texts)
            cut = len(texts[last]) - STEP * (number // len(texts))
            if cut < QUESTION_TOKENS + ANSWER_TOKENS + CHUNK_TOKENS:
                return
            joined = np.concatenate([*texts[last + 1 :], *texts[:last], texts[last][:cut]])
            answer = joined[-ANSWER_TOKENS:]
            question = joined[-ANSWER_TOKENS - QUESTION_TOKENS : -ANSWER_TOKENS]
            context = joined[: -ANSWER_TOKENS - QUESTION_TOKENS][-self.context_tokens :]
            # The first chunk may be shorter, so that all others are whole.
            first = len(context) % CHUNK_TOKENS
            chunks = [part for part in np.split(context, range(first, len(context), CHUNK_TOKENS)) if len(part)]
            yield Case(f"continuation-{number}", self.name, Prompt(self.prefix, tuple(chunks), question), answer)
