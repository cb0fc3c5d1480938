"""A Transformers cache that scatters: it turns an ordinary forward pass into a selective recompute.

Only the chosen tokens are passed to the model, with their positions. Each layer writes their fresh keys and values
into the prompt's KV and attends over all of it; a mask keeps every token from seeing later ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine.observe import additive_masks
from kvquilt_router.engine.traits import ModelTraits

OnLayer = Callable[[int, LayerTensors], None]
"""Called with a layer's number and finished KV. Must not keep or change the tensors."""


class ScatterLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """One layer's KV of the whole prompt; `update` writes at `slots` instead of appending.

    Args:
        tensors: written in place.
        slots: `[n]` positions of the tokens that the coming forward pass computes.
        finished: called when this layer's KV is complete.
    """

    def __init__(self, tensors: LayerTensors, slots: torch.Tensor, finished: Callable[[], None]) -> None:
        super().__init__()
        self.dtype, self.device = tensors.keys.dtype, tensors.keys.device
        self.keys, self.values = tensors.keys, tensors.values
        self.is_initialized = True
        self._slots = slots
        self._finished = finished

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `[1, kv_heads, n, dim]` at the slots; return all keys and values."""
        self.keys.index_copy_(2, self._slots, key_states)
        self.values.index_copy_(2, self._slots, value_states)
        self._finished()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """0: a model that makes its own mask (see `scatter_mask`) computes every token, so none came before."""
        return 0


def scatter_cache(layers: list[LayerTensors], slots: torch.Tensor, on_layer: OnLayer) -> Cache:
    """A cache for one forward pass over the tokens at `slots`."""

    def finished(index: int) -> Callable[[], None]:
        return lambda: on_layer(index, layers[index])

    return Cache(layers=[ScatterLayer(tensors, slots, finished(i)) for i, tensors in enumerate(layers)])


def scatter_mask(model: Any, traits: ModelTraits, slots: torch.Tensor, tokens: int) -> Any:
    """Attention mask for tokens at `slots` over `tokens` keys, in the form that the model's attention takes.

    A token sees keys at positions up to its own, in windowed layers only the window's. Boolean `[1, 1, n, tokens]`
    (eager attention: additive); a dict by kind of layer where the model has both kinds. `None` where every token is
    computed: the model's own causal mask then, which lets attention skip what it masks (half of the work).
    """
    if len(slots) == tokens:
        return None
    positions = torch.arange(tokens, device=slots.device)
    causal = positions[None] <= slots[:, None]
    if len(set(traits.windows)) == 1:
        return _formed(model, _windowed(causal, positions, slots, traits.windows[0]))
    (window,) = {window for window in traits.windows if window is not None}
    return {
        "full_attention": _formed(model, causal),
        "sliding_attention": _formed(model, _windowed(causal, positions, slots, window)),
    }


def _windowed(causal: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, window: int | None) -> torch.Tensor:
    return causal if window is None else causal & (positions[None] > slots[:, None] - window)


def _formed(model: Any, mask: torch.Tensor) -> torch.Tensor:
    shaped = mask[None, None]
    if not additive_masks(model):
        return shaped
    dtype = model.dtype
    return torch.zeros(shaped.shape, dtype=dtype, device=mask.device).masked_fill(~shaped, torch.finfo(dtype).min)
