"""Prompts over passages, and what those of one kind share: the gate's cases, and those of `kvquilt eval`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.engine import LoadedModel
from kvquilt_router.evaluation.cases import CONTEXT_TOKENS, HEAD, cases
from kvquilt_router.evaluation.kinds import Kind
from kvquilt_router.evaluation.run import Shared
from kvquilt_router.evaluation.types import WARM, Case
from kvquilt_router.evaluation.variants import Codec


class Prepared:
    """Cases over passages.

    Args:
        model: with a tokenizer.
        kinds: of text.
        codecs: by level.

    Attributes:
        kinds: names of the kinds, in the order of the cases.
    """

    def __init__(
        self,
        model: LoadedModel,
        kinds: Sequence[Kind],
        codecs: Mapping[str, Codec],
    ) -> None:
        self._model = model
        self._kinds = kinds
        self.kinds = tuple(kind.name for kind in kinds)
        prefix = np.concatenate([model.tokenise(model.frame.head), model.tokenise(HEAD)])
        self._shared = {
            kind.name: Shared.computed(model.engine, prefix, {WARM: kind.warming}, codecs) for kind in kinds
        }

    def shared(self, case: Case) -> Shared:
        """Prefix and warm-up passages of a case's kind, computed."""
        return self._shared[case.kind]

    def cases(self, count: int, context_tokens: int = CONTEXT_TOKENS) -> Iterator[Case]:
        """So many prompts, about so long, of the kinds in turn."""
        model = self._model

        def decode(token_ids: TokenIds) -> str:
            return str(model.tokenizer.decode(token_ids.tolist())) if model.tokenizer is not None else ""

        return cases(
            self._kinds,
            count,
            head=model.tokenise(model.frame.head),
            tokenise=model.tokenise,
            decode=decode,
            tail=model.frame.tail,
            context_tokens=context_tokens,
        )
