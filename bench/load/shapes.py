"""What is asked of nodes: prompts as long as those of a trace, each of documents of which some are asked for often."""

import random
from dataclasses import dataclass

from store.objects import Made, of_tokens
from ttft.sessions import Lengths

CHUNK = 512
"""Tokens of a whole chunk, as `router.chunk_tokens`."""
_WHOLE, _PARTS, _NEW = 16, 8, 12
"""How many objects there are of whole chunks, of shorter last ones, and to be put."""
_PUTS = 10
"""Of a hundred requests."""
_MOST_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """Either objects to be looked up and got, or one to be put."""

    gets: tuple[Made, ...] = ()
    put: Made | None = None


class Shapes:
    """Draws requests.

    A prompt's whole chunks are drawn as texts of RAG are asked for: the n-th of them 1/n times as often as the first.

    Attributes:
        stored: objects that are to be there.
        new: objects that puts store.
    """

    def __init__(self, lengths: Lengths, seed: int) -> None:
        self._lengths = lengths.prompts
        self._rng = random.Random(seed)
        self._whole = [of_tokens(CHUNK, number) for number in range(_WHOLE)]
        steps = (CHUNK * (number % 3 + 1) // 4 for number in range(_PARTS))
        self._parts = [of_tokens(tokens, 100 + number) for number, tokens in enumerate(steps)]
        self.stored = [*self._whole, *self._parts]
        self.new = [of_tokens(CHUNK, 200 + number) for number in range(_NEW)]

    def draw(self, number: int) -> Request:
        """The next request; the n-th put is of the n-th new object, then they begin again."""
        if self._rng.randrange(100) < _PUTS:
            return Request(put=self.new[number % len(self.new)])
        chunks, rest = divmod(self._rng.choice(self._lengths), CHUNK)
        weights = [1 / (rank + 1) for rank in range(len(self._whole))]
        drawn = self._rng.choices(self._whole, weights, k=min(chunks, _MOST_CHUNKS))
        if rest or not drawn:
            drawn.append(self._rng.choice(self._parts))
        return Request(gets=tuple({made.key: made for made in drawn}.values()))
