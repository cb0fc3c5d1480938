"""The vocabulary of the benchmark: prompts, what an engine did with one, engines. Read this file first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LIKELIEST = 200
"""Tokens of a distribution that are compared one by one; the rest counts as one."""


@dataclass(frozen=True, slots=True)
class RagPrompt:
    """A question over documents, in the frame of the model's chat template.

    Attributes:
        documents: in prompt order.
        question: asked over them.
        tokens: per part: the shared prefix, the documents, the question with the template's end.
    """

    documents: tuple[str, ...]
    question: str
    tokens: tuple[tuple[int, ...], ...]

    @property
    def token_ids(self) -> list[int]:
        """The whole prompt."""
        return [token for part in self.tokens for token in part]

    @property
    def context_tokens(self) -> int:
        """Tokens before the question's."""
        return sum(map(len, self.tokens[:-1]))


@dataclass(frozen=True, slots=True, eq=False)
class FirstToken:
    """The distribution of an answer's first token.

    Attributes:
        ids: the likeliest tokens, the likeliest first.
        log_probs: theirs.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]

    @classmethod
    def of_logits(cls, logits: NDArray[np.float64]) -> "FirstToken":
        """From the logits of all tokens."""
        log_probs = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        ids = np.argsort(-log_probs, kind="stable")[:LIKELIEST]
        return cls(ids, log_probs[ids])

    @classmethod
    def of_pairs(cls, pairs: Mapping[str, float]) -> "FirstToken":
        """From log-probabilities by token id."""
        ordered = sorted(((int(token), value) for token, value in pairs.items()), key=lambda pair: -pair[1])[:LIKELIEST]
        return cls(np.array([token for token, _ in ordered]), np.array([value for _, value in ordered]))

    def kl(self, other: "FirstToken") -> float:
        """KL(self || other) in nats, over the likeliest tokens and the rest as one: at most the true one.

        A token that is not among the likeliest of `other` counts with the probability of the last one that is.
        """
        known = dict(zip(other.ids.tolist(), other.log_probs.tolist(), strict=True))
        p = self.log_probs
        q = np.array([known.get(token, other.log_probs[-1]) for token in self.ids.tolist()])
        rest = [max(1 - float(np.exp(side).sum()), 1e-12) for side in (p, q)]
        return max(float((np.exp(p) * (p - q)).sum() + rest[0] * np.log(rest[0] / rest[1])), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One prompt, up to its answer's first token.

    Attributes:
        ttft_s: seconds.
        first: the first token's distribution.
        tokens: of the prompt by what became of them: `exact`, `reused`, `recomputed`, `computed`.
        note: what else the engine says of it, for instance why the cache could not help.
    """

    ttft_s: float
    first: FirstToken
    tokens: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


class Engine(Protocol):
    """A serving engine, plain and with kvquilt. Both compute the same tokens with the same model, type and threads."""

    name: str

    def off(self, prompt: RagPrompt) -> Shot:
        """The first token without kvquilt. Nothing is left from earlier prompts."""

    def on(self, prompt: RagPrompt, extent: str = "auto", *, save: bool = False, **options: Any) -> Shot:
        """The first token with kvquilt; nothing is left in the engine itself.

        Args:
            prompt: all of it.
            extent: what is asked for, see `kvquilt.worker.Extent`.
            save: after the first token, have stored in the background what the engine computed.
            options: as in `AsyncClient.blend`.
        """

    def close(self) -> None:
        """End what runs."""
