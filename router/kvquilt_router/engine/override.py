"""Another attention for the time of a forward pass, without touching a model's code.

Transformers calls attention through a table of functions by name. For the time of a pass the model's configuration
names one of ours, which hands every call to a function of the caller's, together with the model's own.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvquilt_codec.errors import UnsupportedModelError

_PREFIX = "kvquilt_"
_INNER = ("sdpa", "eager")

Attend = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
"""An attention function of Transformers: module, query, key, value, mask, and the family's own keyword arguments."""

Override = Callable[[Attend, Any, torch.Tensor, torch.Tensor, torch.Tensor, Any, dict[str, Any]], Any]
"""Called instead of a layer's attention: the model's own, then its module, query, key, value, mask and keywords."""

_active = threading.local()


@contextmanager
def overridden(model: Any, override: Override) -> Iterator[None]:
    """Let `override` answer every attention of the model's forward passes in this thread, while the context is open.

    Raises:
        UnsupportedModelError: the model computes attention in some other way than sdpa or eager.
    """
    name = model.config._attn_implementation
    if name not in _INNER:
        raise UnsupportedModelError(
            f"expected a model with attention {' or '.join(_INNER)}; got {name!r}: "
            "load it with attn_implementation='sdpa'"
        )
    model.config._attn_implementation = _PREFIX + name
    _active.override = override
    try:
        yield
    finally:
        _active.override = None
        model.config._attn_implementation = name


def additive_masks(model: Any) -> bool:
    """Whether the model's attention takes additive masks instead of boolean ones."""
    return bool(model.config._attn_implementation.removeprefix(_PREFIX) == "eager")


def _overriding(inner: str) -> Attend:
    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        if inner == "eager":
            own = sys.modules[type(module).__module__].eager_attention_forward
        else:
            own = ALL_ATTENTION_FUNCTIONS[inner]
        override: Override | None = getattr(_active, "override", None)
        if override is None:
            return own(module, query, key, value, mask, **kwargs)
        return override(own, module, query, key, value, mask, kwargs)

    return attention


for _name in _INNER:
    ALL_ATTENTION_FUNCTIONS.register(_PREFIX + _name, _overriding(_name))
    ALL_MASK_ATTENTION_FUNCTIONS.register(_PREFIX + _name, ALL_MASK_ATTENTION_FUNCTIONS[_name])
