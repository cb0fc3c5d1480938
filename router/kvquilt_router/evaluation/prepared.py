"""Prompts over a pool of passages, and what they share: the gate's cases, and those of `kvquilt eval`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.engine import LoadedModel
from kvquilt_router.evaluation.cases import CONTEXT_TOKENS, HEAD, cases
from kvquilt_router.evaluation.run import Shared
from kvquilt_router.evaluation.types import WARM, Case
from kvquilt_router.evaluation.variants import Codec


class Prepared:
    """Cases over passages.

    Args:
        model: with a tokenizer.
        pool: passages that prompts are made of.
        warming: passages that `warm` chunks are computed after; they should be in no prompt.
        codecs: by level.

    Attributes:
        shared: prefix and warm-up passages, computed.
    """

    def __init__(
        self,
        model: LoadedModel,
        pool: Sequence[TokenIds],
        warming: Sequence[TokenIds],
        codecs: Mapping[str, Codec],
    ) -> None:
        self._model = model
        self._pool = pool
        prefix = np.concatenate([model.tokenise(model.frame.head), model.tokenise(HEAD)])
        self.shared = Shared.computed(model.engine, prefix, {WARM: warming}, codecs)

    def cases(self, count: int, context_tokens: int = CONTEXT_TOKENS) -> Iterator[Case]:
        """So many prompts, about so long."""
        model = self._model

        def decode(token_ids: TokenIds) -> str:
            return str(model.tokenizer.decode(token_ids.tolist())) if model.tokenizer is not None else ""

        return cases(
            self._pool,
            count,
            head=model.tokenise(model.frame.head),
            tokenise=model.tokenise,
            decode=decode,
            tail=model.frame.tail,
            context_tokens=context_tokens,
        )
