"""Warm-up passages: real text of the same corpus that chunks are computed after, fixed per corpus.

A chunk that was computed after any real text is much nearer to what it is in a prompt than one computed after the
shared prefix alone (docs/blending.md has the measurements); text of the same corpus does best.
"""

from collections.abc import Callable, Sequence

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.calibration.corpus import shipped_texts

PASSAGE_TOKENS = 160
MIN_PASSAGE_TOKENS = 48
DOCUMENTS_PER_PASSAGE = 2
"""A corpus gives one passage for so many documents that it has."""
MIN_PASSAGES = 2
"""With fewer of its own, a corpus is warmed up by other text."""
CORPORA_KEPT = 256


class WarmUps:
    """The warm-up passages of every corpus, as far as this router knows them.

    Args:
        passages: how many at most; with 0 there are none, and chunks are computed after the shared prefix alone.
        tokenise: of the model; `None` where it has no tokenizer: passages then come from documents only.
        wanted: asked every time. While nothing but exact chunks may be used, a document is worth most if it was
            computed right after the shared prefix.
    """

    def __init__(
        self, passages: int, tokenise: Callable[[str], TokenIds] | None, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        self._passages = passages
        self._wanted = wanted
        self._tokenise = tokenise
        self._known: dict[str, tuple[TokenIds, ...]] = {}
        self._shipped: tuple[TokenIds, ...] | None = None

    def choose(
        self, corpus: str, documents: Sequence[TokenIds], given: Sequence[TokenIds] = ()
    ) -> tuple[TokenIds, ...]:
        """Passages of a corpus whose documents are about to be computed; remembered from the first call on.

        Args:
            corpus: its name.
            documents: of the corpus, as many as are at hand.
            given: these passages, whatever is remembered.
        """
        if self._passages == 0:
            return ()
        if given:
            self._remember(corpus, tuple(given))
        elif corpus not in self._known:
            long = [document for document in documents if len(document) >= MIN_PASSAGE_TOKENS]
            count = min(self._passages, len(long) // DOCUMENTS_PER_PASSAGE)
            if count >= min(MIN_PASSAGES, self._passages):
                chosen = (long[index * len(long) // count] for index in range(count))
                self._remember(corpus, tuple(document[:PASSAGE_TOKENS] for document in chosen))
        return self.of(corpus)

    def of(self, corpus: str) -> tuple[TokenIds, ...]:
        """Passages of a corpus; where none are known, English text of another kind."""
        if self._passages == 0 or not self._wanted():
            return ()
        return self._known.get(corpus) or self._default()

    def _remember(self, corpus: str, passages: tuple[TokenIds, ...]) -> None:
        while len(self._known) >= CORPORA_KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[corpus] = passages

    def _default(self) -> tuple[TokenIds, ...]:
        if self._shipped is None:
            texts = [] if self._tokenise is None else shipped_texts()
            step = max(1, len(texts) // self._passages)
            tokenise = self._tokenise
            self._shipped = tuple(
                tokenise(text.content)[:PASSAGE_TOKENS]
                for text in texts[::step][: self._passages]
                if tokenise is not None
            )
        return self._shipped


def without(passages: Sequence[TokenIds], chunk: TokenIds) -> tuple[TokenIds, ...]:
    """The passages that share no beginning with a chunk: one computed after itself would only copy."""
    kept = []
    for passage in passages:
        shared = min(len(passage), len(chunk), MIN_PASSAGE_TOKENS)
        if not np.array_equal(passage[:shared], chunk[:shared]):
            kept.append(passage)
    return tuple(kept)
