"""A look at a model's attention while it computes, without changing what it computes.

Transformers calls attention through a table of functions by name. For the time of one forward pass the model's
configuration names one of ours, which shows the rotated queries and keys to an observer and then calls the model's own.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PREFIX = "kvquilt_"
_ROWS = 64
"""Queries whose attention is held at once: `heads x rows x tokens` numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """One layer's attention as it is about to be computed.

    Attributes:
        layer: number of the layer.
        query: `[heads, n, dim]`, rotated.
        keys: `[kv_heads, tokens, dim]`, rotated.
        mask: `[n, tokens]`: boolean (true: seen) or additive; `None`: causal, the n queries being the last tokens.
        scaling: of the products.
    """

    layer: int
    query: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None
    scaling: float

    def weights(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attention weights `[kv_heads, group, part, tokens]` (float32) of the queries `rows`, part by part.

        Soft caps and learned sinks, which some families have, are left out: this serves to choose, not to compute.
        """
        kv_heads, tokens, _ = self.keys.shape
        heads, count, dim = self.query.shape
        keys = self.keys.float().unsqueeze(1)
        for part in torch.split(rows, _ROWS):
            query = self.query[:, part].float().reshape(kv_heads, heads // kv_heads, len(part), dim)
            scores = (query @ keys.transpose(-1, -2)) * self.scaling
            yield (scores + self._additive(part, count, tokens)).softmax(-1)

    def _additive(self, rows: torch.Tensor, count: int, tokens: int) -> torch.Tensor:
        if self.mask is not None and self.mask.dtype is not torch.bool:
            return self.mask[rows].float()
        if self.mask is not None:
            seen = self.mask[rows]
        else:
            seen = torch.arange(tokens, device=rows.device)[None] <= (rows + tokens - count)[:, None]
        return torch.zeros(seen.shape, device=rows.device).masked_fill(~seen, float("-inf"))


Observer = Callable[[Attention], None]
"""Called once a layer, in order, before its attention is computed."""

_active = threading.local()


@contextmanager
def observed(model: Any, observer: Observer) -> Iterator[None]:
    """Show every attention of the model's forward passes in this thread to `observer`, while the context is open."""
    name = model.config._attn_implementation
    model.config._attn_implementation = _PREFIX + name
    _active.observer = observer
    try:
        yield
    finally:
        _active.observer = None
        model.config._attn_implementation = name


def additive_masks(model: Any) -> bool:
    """Whether the model's attention takes additive masks instead of boolean ones."""
    return bool(model.config._attn_implementation.removeprefix(_PREFIX) == "eager")


def _observing(inner: str) -> Callable[..., Any]:
    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        observer: Observer | None = getattr(_active, "observer", None)
        if observer is not None:
            scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
            seen = None if mask is None else mask[0, 0, :, : key.shape[2]]
            observer(Attention(module.layer_idx, query[0], key[0], seen, scaling))
        if inner == "eager":
            own = sys.modules[type(module).__module__].eager_attention_forward
        else:
            own = ALL_ATTENTION_FUNCTIONS[inner]
        return own(module, query, key, value, mask, **kwargs)

    return attention


for _inner in ("sdpa", "eager"):
    ALL_ATTENTION_FUNCTIONS.register(_PREFIX + _inner, _observing(_inner))
    ALL_MASK_ATTENTION_FUNCTIONS.register(_PREFIX + _inner, ALL_MASK_ATTENTION_FUNCTIONS[_inner])
