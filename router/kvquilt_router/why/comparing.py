"""What two texts that are nearly the same tell: where they part, and how they differ. Pure computation."""

import unicodedata
from collections.abc import Callable

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.why.diverging import diverging
from kvquilt_router.why.types import Divergence, DivergenceFound, Explanation

AROUND = 12
"""Tokens of text that are shown on each side of a divergence."""

Text = Callable[[TokenIds], str]
"""Token ids as text; empty if the model has no tokenizer."""


def compared(
    prompt: TokenIds, begin: int, end: int, stored: TokenIds, text: Text, shifts: tuple[int, ...] = ()
) -> Explanation | None:
    """What a stored chunk tells of a missed one; `None`: they have nothing in common, or are the same.

    Args:
        prompt: all its tokens.
        begin: of the missed chunk.
        end: after it.
        stored: tokens of the stored chunk.
        text: see `Text`.
        shifts: where in the missed chunk the stored one may begin.
    """
    tokens = prompt[begin:end]
    divergence = diverging(tokens, stored, shifts)
    if divergence is None or not divergence.same_tokens:
        return None
    cut = divergence.same_tokens == min(len(tokens), len(stored))
    cause = "cut_elsewhere" if cut else "normalised" if _same_text(tokens, stored, text) else "edited"
    return Explanation(cause, divergence=_found(prompt, begin, stored, 0, divergence, text))


def edit(
    prompt: TokenIds, begin: int, end: int, stored: TokenIds, stored_begin: int, stored_end: int | None, text: Text
) -> Explanation | None:
    """What stands in a stored chunk in place of a missed run beside parts of it; `None`: the same, which cannot be.

    Args:
        prompt: all its tokens.
        begin: of the missed run.
        end: after it.
        stored: tokens of the stored chunk.
        stored_begin: after the part that precedes the run.
        stored_end: where the part begins that follows it; `None`: none does.
        text: see `Text`.
    """
    tokens = prompt[begin:end]
    divergence = diverging(tokens, stored[stored_begin:])
    if divergence is None:
        return None
    same = stored_end is not None and _same_text(tokens, stored[stored_begin:stored_end], text)
    found = _found(prompt, begin, stored, stored_begin, divergence, text)
    return Explanation("normalised" if same else "edited", divergence=found)


def normalised(text: str) -> str:
    """A text without what editors, parsers and web pages change unseen: Unicode form, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _same_text(tokens: TokenIds, stored: TokenIds, text: Text) -> bool:
    ours = text(tokens)
    return bool(ours) and normalised(ours) == normalised(text(stored) if len(stored) else "")


def _found(
    prompt: TokenIds, begin: int, stored: TokenIds, stored_begin: int, divergence: Divergence, text: Text
) -> DivergenceFound:
    at, place = begin + divergence.offset, stored_begin + divergence.offset
    before, expected, got = (
        text(np.asarray(part)) if len(part) else ""
        for part in (prompt[max(0, at - AROUND) : at], stored[place : place + AROUND], prompt[at : at + AROUND])
    )
    return DivergenceFound(divergence, begin, len(stored), stored_begin, before, expected, got)
