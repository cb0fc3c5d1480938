"""Attention of scattered queries on a CPU, in blocks that leave out the keys after each block's last query.

A mask over all keys makes attention compute what it then masks, half of it on average; and Transformers repeats the
keys of grouped heads for it. Both cost as much as the rest of the attention (measured: 240 queries over 2,040 keys,
9 heads over 3: 0.40 against 0.78 s of CPU for 30 layers).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvquilt_router.engine.override import Attend, overridden
from kvquilt_router.engine.runner import ModelRunner

_ROWS = 64
_UNDERSTOOD = {"scaling", "dropout", "is_causal", "sliding_window", "position_ids", "use_cache"}
"""Keywords of a call that are in the mask, or that sdpa does not look at; with any other the model's own runs."""


@contextmanager
def blockwise(runner: ModelRunner, slots: torch.Tensor, mask: Any) -> Iterator[None]:
    """While open, attention of queries at `slots` (ascending) with this boolean mask is computed in blocks.

    Does nothing where that is no use (few queries, other devices) or not known to be right (eager attention, masks by
    kind of layer).
    """
    applies = (
        slots.device.type == "cpu"
        and len(slots) > _ROWS
        and isinstance(mask, torch.Tensor)
        and mask.dtype is torch.bool
        and runner.model.config._attn_implementation == "sdpa"
    )
    if not applies:
        yield
        return
    ends = [min(begin + _ROWS, len(slots)) for begin in range(0, len(slots), _ROWS)]
    blocks = [(begin, end, int(slots[end - 1]) + 1) for begin, end in zip([0, *ends], ends, strict=False)]

    def attend(
        own: Attend,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        given: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        others = {name for name, setting in kwargs.items() if setting is not None} - _UNDERSTOOD
        if own is not ALL_ATTENTION_FUNCTIONS["sdpa"] or given is not mask or others:
            return own(module, query, key, value, given, **kwargs)
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, begin:end],
                key[:, :, :seen],
                value[:, :, :seen],
                attn_mask=mask[:, :, begin:end, :seen],
                scale=kwargs.get("scaling"),
                enable_gqa=True,
            )
            for begin, end, seen in blocks
        ]
        return torch.cat(parts, 2).transpose(1, 2), None

    with overridden(runner.model, attend):
        yield
