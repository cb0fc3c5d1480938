"""Passages of plain texts, as documents are: they begin and end where a line or a sentence does."""

import random
from collections.abc import Sequence

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.engine import LoadedModel

PASSAGE_TOKENS = (96, 256)
SEPARATOR = "\n\n"
_ENDS = (".", "!", "?", '."')


class Cutter:
    """Cuts texts into passages.

    Args:
        model: with a tokenizer.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._separator = model.tokenise(SEPARATOR)
        self._known: dict[int, bool] = {}

    def passages(self, texts: Sequence[TokenIds], seed: int = 0) -> list[TokenIds]:
        """Texts cut into passages of different lengths, each with an empty line after it.

        A passage ends with the first line or sentence that ends at its drawn length or later, within the longest
        length, else with the last one before, and where none ends, at the drawn length. What is left of a text is left
        out if it is shorter than the shortest.
        """
        rng = random.Random(f"passages {seed}")  # noqa: S311  no secret
        shortest, longest = PASSAGE_TOKENS
        cut: list[TokenIds] = []
        for text in texts:
            begin = 0
            while len(text) - begin >= shortest:
                drawn = rng.randint(shortest, longest)
                window = text[begin + shortest - 1 : begin + longest].tolist()
                ends = [shortest + index for index, token in enumerate(window) if self._ends(token)]
                later = [end for end in ends if end >= drawn]
                length = later[0] if later else ends[-1] if ends else drawn
                cut.append(np.concatenate([text[begin : begin + length], self._separator]).astype(np.uint32))
                begin += length
        return cut

    def _ends(self, token: int) -> bool:
        """Whether a line or a sentence ends with this token."""
        known = self._known.get(token)
        if known is None:
            tokenizer = self._model.tokenizer
            text = "" if tokenizer is None else str(tokenizer.decode([token]))
            known = self._known[token] = "\n" in text or text.endswith(_ENDS)
        return known
