"""A Transformers cache that scatters: it turns an ordinary forward pass into a selective recompute.

Only the chosen tokens are passed to the model, with their positions. Each layer writes their fresh keys and values
into the prompt's KV and attends over all of it; a mask keeps every token from seeing later ones.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from kvquilt_router.engine.kv import LayerTensors

OnLayer = Callable[[int, LayerTensors], None]
"""Called with a layer's number and finished KV. Must not keep or change the tensors."""

BeforeLayer = Callable[[int], None]
"""Called with a layer's number before anything of its KV is read or written: what is stored may be put there then."""


class ActiveTokens:
    """The tokens that a forward pass computes.

    Attributes:
        slots: `[n]` their positions in the prompt.
    """

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots

    def before_write(self, tensors: LayerTensors) -> None:
        """Called with each layer's KV before fresh values take the place of stored ones."""


class ScatterLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """One layer's KV of the whole prompt; `update` writes at the active slots instead of appending.

    Args:
        tensors: written in place.
        active: the tokens that the pass computes.
        begin: called before this layer's KV is touched.
        finished: called when this layer's KV is complete.
    """

    def __init__(
        self, tensors: LayerTensors, active: ActiveTokens, begin: Callable[[], None], finished: Callable[[], None]
    ) -> None:
        super().__init__()
        self.dtype, self.device = tensors.keys.dtype, tensors.keys.device
        self.keys, self.values = tensors.keys, tensors.values
        self.is_initialized = True
        self._tensors = tensors
        self._active = active
        self._begin = begin
        self._finished = finished

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `[1, kv_heads, n, dim]` at the slots; return all keys and values."""
        self._begin()
        self._active.before_write(self._tensors)
        self.keys.index_copy_(2, self._active.slots, key_states)
        self.values.index_copy_(2, self._active.slots, value_states)
        self._finished()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """0: a model that makes its own mask (see `scatter_mask`) computes every token, so none came before."""
        return 0


def scatter_cache(
    layers: Sequence[LayerTensors], active: ActiveTokens, on_layer: OnLayer, before_layer: BeforeLayer | None = None
) -> Cache:
    """A cache for one forward pass over the active tokens."""

    def begin(index: int) -> Callable[[], None]:
        return lambda: None if before_layer is None else before_layer(index)

    def finished(index: int) -> Callable[[], None]:
        return lambda: on_layer(index, layers[index])

    return Cache(layers=[ScatterLayer(tensors, active, begin(i), finished(i)) for i, tensors in enumerate(layers)])
