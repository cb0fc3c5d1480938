"""Attention masks in the form that a model takes: who sees whom, in windowed layers only the window's."""

from typing import Any

import torch

from kvquilt_router.engine.blocks import BlockStructure
from kvquilt_router.engine.override import additive_masks
from kvquilt_router.engine.traits import ModelTraits


def scatter_mask(
    model: Any,
    traits: ModelTraits,
    slots: torch.Tensor,
    tokens: int,
    *,
    visible: BlockStructure | None = None,
    explicit: bool = False,
) -> Any:
    """Mask for tokens at `slots` over keys at positions 0 to `tokens`: each sees its own position and earlier ones.

    Args:
        model: whose attention takes the mask.
        traits: its windows.
        slots: `[n]` positions of the queries.
        tokens: number of keys.
        visible: takes some of the earlier ones away.
        explicit: a mask in any case. Otherwise it is `None` where every token is computed: the model's own causal
            mask then, which lets attention skip what it masks (half of the work).
    """
    if len(slots) == tokens and visible is None and not explicit:
        return None
    keys = torch.arange(tokens, device=slots.device)
    seen = keys[None] <= slots[:, None]
    if visible is not None:
        seen &= visible.seen(slots, tokens)
    return model_mask(model, traits, seen, slots, keys)


def packed_mask(model: Any, traits: ModelTraits, prefix: int, lengths: list[int], device: torch.device) -> Any:
    """Mask for chunks of `lengths` tokens, one after the other, each of which directly follows `prefix` tokens.

    A chunk sees the prefix and itself only. Keys: the prefix's, then the chunks'.
    """
    positions = chunk_positions(prefix, lengths, device)
    keys = torch.cat([torch.arange(prefix, device=device), positions])
    chunk = torch.repeat_interleave(torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device))
    same = chunk[:, None] == chunk[None]
    seen = torch.cat([same.new_ones(len(positions), prefix), same], 1) & (keys[None] <= positions[:, None])
    return model_mask(model, traits, seen, positions, keys)


def chunk_positions(prefix: int, lengths: list[int], device: torch.device) -> torch.Tensor:
    """Positions of the tokens of chunks that all begin directly after `prefix` tokens, one chunk after the other."""
    return torch.cat([torch.arange(prefix, prefix + length, device=device) for length in lengths])


def model_mask(
    model: Any, traits: ModelTraits, seen: torch.Tensor, positions: torch.Tensor, key_positions: torch.Tensor
) -> Any:
    """What `seen` (`[n, tokens]` boolean) and the windows leave, in the form that the model's attention takes.

    Boolean `[1, 1, n, tokens]` (eager attention: additive); a dict by kind of layer where the model has both kinds.

    Args:
        model: whose attention takes it.
        traits: its windows.
        seen: which keys each query may see.
        positions: `[n]` of the queries.
        key_positions: `[tokens]`.
    """

    def windowed(window: int | None) -> torch.Tensor:
        near = seen if window is None else seen & (key_positions[None] > positions[:, None] - window)
        return _formed(model, near)

    if len(set(traits.windows)) == 1:
        return windowed(traits.windows[0])
    (window,) = {window for window in traits.windows if window is not None}
    return {"full_attention": windowed(None), "sliding_attention": windowed(window)}


def _formed(model: Any, mask: torch.Tensor) -> torch.Tensor:
    shaped = mask[None, None]
    if not additive_masks(model):
        return shaped
    dtype = model.dtype
    return torch.zeros(shaped.shape, dtype=dtype, device=mask.device).masked_fill(~shaped, torch.finfo(dtype).min)
