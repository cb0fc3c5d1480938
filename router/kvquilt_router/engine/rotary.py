"""Rotation of keys to positions and back, through the model family's own rotary code.

Keys are rotated with the angles that the model itself uses at that position, so that a moved key equals the key that
a full prefill computes there (measured in layer 0: 7e-8 relative at position 8,000). Rotating by a position difference
instead, even with float64 angles, is off by 4e-5 there, because the model's own float32 angles are
(docs/decisions/0003-rotation.md).
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from kvquilt_codec.errors import UnsupportedModelError

Angles = Mapping[str | None, tuple[torch.Tensor, torch.Tensor]]
"""Cosines and sines `[1, tokens, rotary_dim]` in float32, per kind of layer (`None` where all layers share them)."""

# RoPE whose angles depend on the length of the prompt: a key at one position has no one value.
_LENGTH_DEPENDENT = {"dynamic", "longrope"}


class Rotary:
    """Rotates keys of one model.

    Args:
        decoder: the model's decoder (`model.get_decoder()`).
        layer_kinds: per layer its kind in the configuration's `layer_types`, or `None` for all if it has none.

    Raises:
        UnsupportedModelError: no rotary embedding, or one whose angles depend on the prompt's length.
    """

    def __init__(self, decoder: Any, layer_kinds: tuple[str | None, ...]) -> None:
        embedding = getattr(decoder, "rotary_emb", None)
        module = sys.modules[type(decoder).__module__]
        apply = getattr(module, "apply_rotary_pos_emb", None)
        if embedding is None or apply is None:
            raise UnsupportedModelError(
                f"expected a decoder with rotary position embedding; {type(decoder).__name__} has none: "
                "its keys cannot be moved"
            )
        types = embedding.rope_type.values() if isinstance(embedding.rope_type, dict) else [embedding.rope_type]
        if wrong := _LENGTH_DEPENDENT & set(types):
            raise UnsupportedModelError(
                f"expected RoPE whose angles depend on the position alone; this model's ({', '.join(sorted(wrong))}) "
                "depend on the prompt's length too"
            )
        self._embedding = embedding
        self._apply: Callable[..., tuple[torch.Tensor, torch.Tensor]] = apply
        self._per_kind = "layer_type" in inspect.signature(embedding.forward).parameters
        self._kinds = layer_kinds if self._per_kind else (None,) * len(layer_kinds)

    def angles(self, positions: torch.Tensor) -> Angles:
        """Cosines and sines for positions `[tokens]`, computed once for all layers."""
        like = torch.empty(1, dtype=torch.float32, device=positions.device)
        table: dict[str | None, tuple[torch.Tensor, torch.Tensor]] = {}
        for kind in set(self._kinds):
            arguments = (like, positions[None]) if kind is None else (like, positions[None], kind)
            cos, sin = self._embedding(*arguments)
            # Without the attention scaling (yarn): it is in the rotated keys already, and must stay there once.
            name = "attention_scaling" if kind is None else f"{kind}_attention_scaling"
            scaling = getattr(self._embedding, name, 1.0)
            table[kind] = (cos / scaling, sin / scaling)
        return table

    def rotate(self, keys: torch.Tensor, layer: int, angles: Angles, *, inverse: bool = False) -> torch.Tensor:
        """Rotate keys `[1, kv_heads, tokens, dim]` of a layer forwards, or back; computed in float32."""
        cos, sin = angles[self._kinds[layer]]
        wide = keys.float()
        rotated = self._apply(wide, wide, cos, -sin if inverse else sin)[1]
        return rotated.to(keys.dtype)
