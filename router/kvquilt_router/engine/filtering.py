"""Fewer tokens from layer to layer within one forward pass, as a `LayerFilter` decides.

Forward pre-hooks of the decoder's layers take the dropped tokens out of the hidden states and out of everything else
that a layer is given per token. The layers themselves are the model's own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError, UnsupportedModelError
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine.observe import Attention, observed
from kvquilt_router.engine.runner import Enough, ModelRunner
from kvquilt_router.engine.scatter import ActiveTokens
from kvquilt_router.selection import LayerFilter
from kvquilt_router.types import Indices


class FilteredTokens(ActiveTokens):
    """The tokens of a pass that loses some of them on its way.

    Args:
        slots: `[n]` positions of the tokens at the first layer.
        droppable: `[n]` boolean: those that the filter decides about.
        context: number of tokens before the question.
        layer_filter: decides.
    """

    def __init__(self, slots: torch.Tensor, droppable: torch.Tensor, context: int, layer_filter: LayerFilter) -> None:
        super().__init__(slots)
        self._first = slots
        self._rows = torch.arange(len(slots), device=slots.device)
        self._droppable = droppable
        self._context = context
        self._filter = layer_filter
        self._values = self._stored = torch.empty(0)
        self._keep: torch.Tensor | None = None
        self._narrowed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._thread = 0

    def before_write(self, tensors: LayerTensors) -> None:
        """Keep the stored values of the tokens that may be dropped, for `LayerView.value_deviation`."""
        self._values = tensors.values
        self._stored = tensors.values.index_select(2, self.slots[self._droppable])

    @contextmanager
    def narrowing(self, runner: ModelRunner) -> Iterator[None]:
        """Let the filter look at every layer, and drop what it drops, in passes of this thread within the context.

        Raises:
            UnsupportedModelError: the model's layers are not where, or do not take what, its siblings' are and do.
        """
        layers = getattr(runner.decoder, "layers", None)
        count = len(runner.traits.windows)
        if layers is None or len(layers) != count:
            raise UnsupportedModelError(
                f"expected {type(runner.decoder).__name__}.layers with the model's {count} layers; "
                f"got {'none' if layers is None else len(layers)}: recompute without a layer filter"
            )
        self._thread = threading.get_ident()
        hooks = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in layers]
        try:
            with observed(runner.model, lambda attention: self._decide(attention, last=count - 1)):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _decide(self, attention: Attention, last: int) -> None:
        if attention.layer == last or not bool(self._droppable.any()):
            return
        view = _View(attention, self.slots, self._droppable, self._context, self._values, self._stored)
        kept = self._filter.keep(view)
        if kept is None:
            return
        if kept.dtype != np.bool_ or kept.shape != view.positions.shape:
            raise BadRequestError(
                f"expected a filter to return {len(view.positions)} booleans, one for each of its view's positions; "
                f"got {kept.dtype} of shape {kept.shape}"
            )
        if not kept.all():
            self._keep = ~self._droppable
            self._keep[self._droppable] = torch.from_numpy(kept).to(self.slots.device)

    def _enter(
        self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a layer: drop what was decided at the layer before."""
        if threading.get_ident() != self._thread:
            return None  # a pass of somebody else's, who uses the same model object
        named = "hidden_states" in kwargs
        hidden = kwargs["hidden_states"] if named else args[0] if args else None
        if not isinstance(hidden, torch.Tensor) or hidden.dim() != 3 or hidden.shape[1] != len(self.slots):
            raise UnsupportedModelError(
                f"expected layers that take hidden states [1, {len(self.slots)}, size] first; got "
                f"{getattr(hidden, 'shape', type(hidden).__name__)}: recompute without a layer filter"
            )
        if self._keep is not None:
            hidden = self._drop(hidden, self._keep)
        if len(self.slots) < len(self._first):
            args = args if named else args[:1] + tuple(self._narrow("argument", value) for value in args[1:])
            kwargs = {name: self._narrow(name, value) for name, value in kwargs.items() if name != "hidden_states"}
        if named:
            return args, {**kwargs, "hidden_states": hidden}
        return (hidden, *args[1:]), kwargs

    def _drop(self, hidden: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        rows = keep.nonzero()[:, 0]
        if len(rows) == 0:
            raise Enough
        self.slots, self._rows, self._droppable = self.slots[rows], self._rows[rows], self._droppable[rows]
        self._keep = None
        self._narrowed.clear()
        return hidden.index_select(1, rows)

    def _narrow(self, name: str, value: Any) -> Any:
        """Rows of the tokens that are left, of one argument of a layer."""
        if isinstance(value, torch.Tensor):
            return self._narrow_tensor(name, value)
        if isinstance(value, tuple | list):
            return type(value)(self._narrow(name, item) for item in value)
        if type(value) is dict:
            return {key: self._narrow(name, item) for key, item in value.items()}
        return value

    def _narrow_tensor(self, name: str, value: torch.Tensor) -> torch.Tensor:
        tokens = len(self._first)
        if tokens not in value.shape:
            return value
        axis = 2 if name == "attention_mask" else min(1, value.dim() - 1)
        if value.dim() <= axis or value.shape[axis] != tokens:
            raise UnsupportedModelError(
                f"expected the tokens of a layer's {name!r} at dimension {axis}; "
                f"got shape {tuple(value.shape)} for {tokens} tokens: recompute without a layer filter"
            )
        known = self._narrowed.get(id(value))  # the layers share most of their arguments
        if known is None:
            known = self._narrowed[id(value)] = (value, value.index_select(axis, self._rows))
        return known[1]


class _View:
    """See `LayerView`; valid while the filter looks."""

    def __init__(
        self,
        attention: Attention,
        slots: torch.Tensor,
        droppable: torch.Tensor,
        context: int,
        values: torch.Tensor,
        stored: torch.Tensor,
    ) -> None:
        self.layer = attention.layer
        self._attention = attention
        self._slots = slots
        self._deciding = slots[droppable]
        self._context = context
        self._values = values
        self._stored = stored
        self.positions: Indices = self._deciding.cpu().numpy()

    def value_deviation(self) -> NDArray[np.float32]:
        """See `LayerView.value_deviation`."""
        fresh = self._values.index_select(2, self._deciding).float()
        deviation: NDArray[np.float32] = (fresh - self._stored.float()).square().sum((0, 1, 3)).cpu().numpy()
        return deviation

    def question_attention(self) -> NDArray[np.float32]:
        """See `LayerView.question_attention`."""
        total = torch.zeros(self._context, device=self._slots.device)
        for part in self._attention.weights((self._slots >= self._context).nonzero()[:, 0]):
            total += part[..., : self._context].sum((0, 1, 2))
        attention: NDArray[np.float32] = total.cpu().numpy()
        return attention
