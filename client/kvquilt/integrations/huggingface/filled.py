"""What a fill gives: the keyword arguments of `generate`, and what was done."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kvquilt.types import BlendReport
from kvquilt.worker import WorkerRequest


class _Inputs:
    """Arguments of `generate`: `model.generate(**filled)` takes them out."""

    __slots__ = ()

    def keys(self) -> tuple[str, ...]:
        """Names of the arguments."""
        return "input_ids", "attention_mask", "past_key_values"

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)


@dataclass(frozen=True, slots=True, eq=False)
class FilledCache(_Inputs):
    """One prompt, for one call `model.generate(**filled)`, which goes on in the cache.

    Attributes:
        input_ids: `[1, tokens]`, int64: the whole prompt.
        past_key_values: KV of the prompt's first tokens, at most all but the last; empty if the cache could not help.
        report: what was done, or `None` if the cache could not help.
        fallback_reason: why it could not, a short code; empty otherwise.
        request: what was asked for; `None`: nothing of this cache is to be saved.
        exact: all that came was computed in exactly this context; so is what the model computes over it.
        gate_refusal: why stored chunks whose context changed were not used; empty if they were, or there are none.
        stored_tokens: of the prompt's first tokens that came so, whose KV is stored therefore.
    """

    input_ids: torch.Tensor
    past_key_values: DynamicCache
    report: BlendReport | None
    fallback_reason: str
    request: WorkerRequest | None = None
    exact: bool = True
    gate_refusal: str = ""
    stored_tokens: int = 0

    @property
    def attention_mask(self) -> torch.Tensor:
        """`[1, tokens]`, int64, ones."""
        return torch.ones_like(self.input_ids)


@dataclass(frozen=True, slots=True, eq=False)
class FilledBatch(_Inputs):
    """Several prompts, for one call `model.generate(**filled)`.

    Shorter prompts begin later: what precedes them is padding, which no token attends to.

    Attributes:
        input_ids: `[prompts, tokens]`, int64; tokens of the longest prompt.
        attention_mask: the same shape: 0 at padding, else 1. `generate` takes positions from it.
        past_key_values: KV of all tokens but the last; empty if the cache could help with no prompt.
        prompts: each as it was filled, its cache emptied.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    past_key_values: DynamicCache
    prompts: tuple[FilledCache, ...]

    @property
    def reports(self) -> tuple[BlendReport | None, ...]:
        """Of each prompt."""
        return tuple(prompt.report for prompt in self.prompts)

    @property
    def fallback_reasons(self) -> tuple[str, ...]:
        """Of each prompt."""
        return tuple(prompt.fallback_reason for prompt in self.prompts)
