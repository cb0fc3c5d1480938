"""Shared prefixes that a router has seen, so that a plain prompt can be told where its own ends."""

import numpy as np

from kvquilt_codec.types import TokenIds
from kvquilt_router.types import Prompt

PREFIXES_KEPT = 256


class KnownPrefixes:
    """The shared prefixes of an application's requests, the latest kept.

    Args:
        head: of the model's chat template; empty if it has none.
    """

    def __init__(self, head: TokenIds) -> None:
        self._head = head
        self._seen: dict[bytes, TokenIds] = {}

    def remember(self, prefix: TokenIds) -> None:
        """A prefix that a request named."""
        key = prefix.tobytes()
        self._seen.pop(key, None)
        self._seen[key] = prefix
        while len(self._seen) > PREFIXES_KEPT:
            self._seen.pop(next(iter(self._seen)))

    def of(self, prompt: TokenIds) -> TokenIds:
        """The longest known prefix that a prompt begins with, shorter than the prompt; may be empty."""
        fitting = [prefix for prefix in (self._head, *self._seen.values()) if begins(prompt, prefix)]
        return max(fitting, key=len, default=prompt[:0])


def begins(prompt: TokenIds, prefix: TokenIds) -> bool:
    """Whether a prompt begins with these tokens and goes on."""
    return len(prefix) < len(prompt) and np.array_equal(prompt[: len(prefix)], prefix)


def uncut(tokens: TokenIds, prefix: int) -> Prompt:
    """A plain prompt of so many tokens of shared prefix."""
    document = tokens[prefix:-1]
    return Prompt(tokens[:prefix], (document,) if len(document) else (), tokens[-1:], plain=True)
