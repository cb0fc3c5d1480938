"""Cases made of plain texts, whatever they are about: passages in an order of chance, and questions about them."""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.evaluation.types import EMPTY, Case
from kvquilt_router.types import Prompt

CONTEXT_TOKENS = 1024
PASSAGE_TOKENS = (96, 256)
MIN_PASSAGES = 4
HEAD = "Read the passages and then answer the question.\n\n"
_QUESTIONS = (
    'Question: How does the passage go on after "{inside}"?',
    'Question: Summarise the passage that begins with "{begin}" in one sentence.',
    'Question: What is said right before "{inside}"?',
    "Question: What are the passages about?",
)
_QUOTED = 12


def passages(texts: Sequence[TokenIds], seed: int = 0) -> list[TokenIds]:
    """Texts cut into passages of different lengths; ends that are too short are left out."""
    rng = random.Random(f"passages {seed}")  # noqa: S311  no secret
    cut: list[TokenIds] = []
    for text in texts:
        begin = 0
        while len(text) - begin >= PASSAGE_TOKENS[0]:
            length = rng.randint(*PASSAGE_TOKENS)
            cut.append(text[begin : begin + length])
            begin += length
    return [passage for passage in cut if len(passage) >= PASSAGE_TOKENS[0] // 2]


def cases(
    pool: Sequence[TokenIds],
    count: int,
    *,
    head: TokenIds,
    tokenise: Callable[[str], TokenIds],
    decode: Callable[[TokenIds], str],
    tail: str,
    context_tokens: int = CONTEXT_TOKENS,
    seed: int = 0,
) -> Iterator[Case]:
    """Prompts over passages of the pool; the answer is what a full prefill says.

    Args:
        pool: passages.
        count: of cases.
        head: what every prompt begins with, before the instruction.
        tokenise: text to tokens.
        decode: and back.
        tail: what ends every prompt.
        context_tokens: passages are added until there are so many.
        seed: the same seed gives the same cases.

    Raises:
        BadRequestError: fewer than `MIN_PASSAGES` passages.
    """
    if len(pool) < MIN_PASSAGES:
        raise BadRequestError(
            f"expected texts for at least {MIN_PASSAGES} passages of {PASSAGE_TOKENS[0]} tokens; got {len(pool)}: "
            "add texts"
        )
    prefix = np.concatenate([head, tokenise(HEAD)]).astype(np.uint32)
    for number in range(count):
        rng = random.Random(f"case {seed} {number}")  # noqa: S311
        chosen: list[TokenIds] = []
        for passage in rng.sample(list(pool), len(pool)):
            chosen.append(passage)
            if sum(map(len, chosen)) >= context_tokens and len(chosen) >= MIN_PASSAGES:
                break
        asked = rng.choice(chosen[1:])
        place = rng.randrange(1, max(2, len(asked) - _QUOTED))
        question = _QUESTIONS[number % len(_QUESTIONS)].format(
            inside=decode(asked[place : place + _QUOTED]).strip(), begin=decode(asked[:_QUOTED]).strip()
        )
        yield Case(f"{seed}-{number}", "texts", Prompt(prefix, tuple(chosen), tokenise(question + tail)), EMPTY)
