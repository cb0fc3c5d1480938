"""A look at a model's attention while it computes, without changing what it computes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from kvquilt_router.engine.override import Attend, overridden

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
        softcap: bound of the scaled products (`cap * tanh(x / cap)`), or `None`.
        sinks: `[heads]`: learned scores of a key that has no value, or `None`.
    """

    layer: int
    query: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None

    @classmethod
    def of_call(
        cls, module: Any, query: torch.Tensor, key: torch.Tensor, mask: Any, kwargs: dict[str, Any]
    ) -> "Attention":
        """What Transformers calls an attention function with, for one prompt."""
        return cls(
            module.layer_idx,
            query[0],
            key[0],
            None if mask is None else mask[0, 0, :, : key.shape[2]],
            kwargs.get("scaling") or query.shape[-1] ** -0.5,
            kwargs.get("softcap"),
            kwargs.get("s_aux"),
        )

    def blocks(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """The queries `rows` in parts, so that the memory of what is computed of a part is bounded."""
        yield from torch.split(rows, _ROWS)

    def scores(self, part: torch.Tensor) -> torch.Tensor:
        """Scaled products `[kv_heads, group, part, tokens]` (float32) of the queries `part`, before the mask."""
        kv_heads, _, dim = self.keys.shape
        query = self.query[:, part].float().reshape(kv_heads, -1, len(part), dim)
        scores = (query @ self.keys.float().unsqueeze(1).transpose(-1, -2)) * self.scaling
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def additive_mask(self, part: torch.Tensor) -> torch.Tensor:
        """What is added to the scores of the queries `part`: `[part, tokens]` (float32), very small where unseen."""
        tokens = self.keys.shape[1]
        if self.mask is not None and self.mask.dtype is not torch.bool:
            return self.mask[part].float()
        if self.mask is not None:
            seen = self.mask[part]
        else:
            last = part + tokens - self.query.shape[1]
            seen = torch.arange(tokens, device=part.device)[None] <= last[:, None]
        lowest = torch.finfo(torch.float32).min
        return torch.zeros(seen.shape, device=part.device).masked_fill(~seen, lowest)

    def sink_scores(self, part: torch.Tensor) -> torch.Tensor:
        """Scores `[kv_heads, group, part, 0 or 1]` (float32) of the key without a value, where the model has one."""
        groups = (self.keys.shape[0], self.query.shape[0] // self.keys.shape[0])
        if self.sinks is None:
            return torch.empty(*groups, len(part), 0, device=part.device)
        return self.sinks.float().view(*groups, 1, 1).expand(-1, -1, len(part), 1)

    def weights(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Attention weights `[kv_heads, group, part, tokens]` (float32) of the queries `rows`, part by part."""
        for part in self.blocks(rows):
            scores = self.scores(part) + self.additive_mask(part)
            yield torch.cat([scores, self.sink_scores(part)], -1).softmax(-1)[..., : scores.shape[-1]]


Observer = Callable[[Attention], None]
"""Called once a layer, in order, before its attention is computed, when its keys and values are in the cache."""


def observed(model: Any, observer: Observer) -> AbstractContextManager[None]:
    """Show every attention of the model's forward passes in this thread to `observer`, while the context is open."""

    def look(
        own: Attend,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        observer(Attention.of_call(module, query, key, mask, kwargs))
        return own(module, query, key, value, mask, **kwargs)

    return overridden(model, look)
