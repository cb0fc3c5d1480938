"""Where documents are in a prompt, for engines that know a prompt's tokens and its documents' texts. No I/O."""

from collections.abc import Sequence

import numpy as np

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds

EDGE = 4
"""Tokens at either end of a document that may differ in a prompt, where they are merged with the text around it."""
CORE = 16
"""Least tokens between these ends that tell a document from other text."""


def boundaries(prompt: TokenIds, documents: Sequence[TokenIds], prefix_tokens: int = 0) -> tuple[int, tuple[int, ...]]:
    """`prefix_tokens` and `document_tokens` of a `WorkerRequest` for a prompt that holds these documents.

    Text between two documents becomes a document of its own, and theirs are the tokens that a prefetch of them has.
    Of a document whose first or last tokens are merged with the text around it in the prompt it is the others.

    Args:
        prompt: `[tokens]`.
        documents: in the order of the prompt, each `[tokens]`, as a text is by itself; empty ones are left out.
        prefix_tokens: how long what all prompts begin with is at least; 0: it ends where the first document begins.

    Raises:
        BadRequestError: a document is not in the prompt after the one before it (`document_not_found`).
    """
    bounds: list[int] = [prefix_tokens] if prefix_tokens else []
    position = prefix_tokens
    for number, document in enumerate(documents, start=1):
        if not len(document):
            continue
        found = _find(prompt, document, position)
        if found is None:
            raise BadRequestError(
                f"expected documents that are in the prompt, in its order; document {number} ({len(document)} tokens) "
                f"is not in what follows its first {position} tokens",
                reason="document_not_found",
            )
        begin, position = found
        if not bounds or begin > bounds[-1]:
            bounds.append(begin)
        bounds.append(position)
    return (bounds[0] if bounds else prefix_tokens), tuple(np.diff(bounds).tolist())


def _find(prompt: TokenIds, document: TokenIds, begin: int) -> tuple[int, int] | None:
    """Where a document is first, as a whole, or else without its ends."""
    whole = _first(prompt, document, begin)
    if whole is not None:
        return whole, whole + len(document)
    if len(document) < CORE + 2 * EDGE:
        return None
    core = _first(prompt, document[EDGE:-EDGE], begin)
    if core is None:
        return None
    # What of its ends is the same belongs to it.
    first, last = core, core + len(document) - 2 * EDGE
    left, right = EDGE, len(document) - EDGE
    while left and first > begin and prompt[first - 1] == document[left - 1]:
        first, left = first - 1, left - 1
    while right < len(document) and last < len(prompt) and prompt[last] == document[right]:
        last, right = last + 1, right + 1
    return first, last


def _first(prompt: TokenIds, run: TokenIds, begin: int) -> int | None:
    """The first place from `begin` on where the prompt has these tokens."""
    places = np.arange(begin, len(prompt) - len(run) + 1)
    for offset, token in enumerate(run):
        places = places[prompt[places + offset] == token]
        if not len(places):
            return None
    return int(places[0])
