"""Cases made of plain texts, whatever they are about: passages of one kind in an order of chance, and questions."""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.evaluation.kinds import MIN_PASSAGES, Kind
from kvquilt_router.evaluation.passages import PASSAGE_TOKENS
from kvquilt_router.evaluation.types import EMPTY, Case
from kvquilt_router.types import Prompt

CONTEXT_TOKENS = 1024
HEAD = "Read the passages and then answer the question.\n\n"
_QUESTIONS = (
    'Question: How does the passage go on after "{inside}"?',
    'Question: Summarise the passage that begins with "{begin}" in one sentence.',
    'Question: What is said right before "{inside}"?',
    "Question: What are the passages about?",
)
_QUOTED = 12


def cases(
    kinds: Sequence[Kind],
    count: int,
    *,
    head: TokenIds,
    tokenise: Callable[[str], TokenIds],
    decode: Callable[[TokenIds], str],
    tail: str,
    context_tokens: int = CONTEXT_TOKENS,
    seed: int = 0,
) -> Iterator[Case]:
    """Prompts over passages of one kind each, the kinds in turn; the answer is what a full prefill says.

    Args:
        kinds: of text; a case is named after its own.
        count: of cases.
        head: what every prompt begins with, before the instruction.
        tokenise: text to tokens.
        decode: and back.
        tail: what ends every prompt.
        context_tokens: passages are added until there are so many.
        seed: the same seed gives the same cases.

    Raises:
        BadRequestError: fewer than `MIN_PASSAGES` passages of a kind, or no kind.
    """
    fewest = min((len(kind.pool) for kind in kinds), default=0)
    if fewest < MIN_PASSAGES:
        raise BadRequestError(
            f"expected texts for at least {MIN_PASSAGES} passages of {PASSAGE_TOKENS[0]} tokens; got {fewest}: "
            "add texts"
        )
    prefix = np.concatenate([head, tokenise(HEAD)]).astype(np.uint32)
    for number in range(count):
        turn, of = divmod(number, len(kinds))
        kind = kinds[of]
        rng = random.Random(f"case {seed} {number}")  # noqa: S311
        chosen: list[TokenIds] = []
        for passage in rng.sample(list(kind.pool), len(kind.pool)):
            chosen.append(passage)
            if sum(map(len, chosen)) >= context_tokens and len(chosen) >= MIN_PASSAGES:
                break
        asked = rng.choice(chosen[1:])
        place = rng.randrange(1, max(2, len(asked) - _QUOTED))
        question = _QUESTIONS[(turn + of) % len(_QUESTIONS)].format(
            inside=decode(asked[place : place + _QUOTED]).strip(), begin=decode(asked[:_QUOTED]).strip()
        )
        yield Case(f"{seed}-{number}", kind.name, Prompt(prefix, tuple(chosen), tokenise(question + tail)), EMPTY)
