"""What a model is like, found out by looking and by measuring, never from a list of names."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kvquilt_codec.errors import BadRequestError, UnsupportedModelError
from kvquilt_codec.types import DataType, KVLayout, LayerShape
from kvquilt_router.engine.rotary import Rotary

_PROBE_TOKENS = 12
_PROBE_SHIFT = 29
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
_ATTENTION_KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """Facts about a model's layers.

    Attributes:
        layout: shapes and element type of its KV.
        rotates: per layer, whether its keys carry their position (a few models have layers without RoPE).
        windows: per layer, its sliding window in tokens, or `None`.
        max_context: most tokens of a prompt.
    """

    layout: KVLayout
    rotates: tuple[bool, ...]
    windows: tuple[int | None, ...]
    max_context: int


def layer_kinds(config: Any) -> tuple[str | None, ...]:
    """Per layer its entry in the configuration's `layer_types`; `None` for all where there is none.

    Raises:
        UnsupportedModelError: a layer keeps something else than one key and value per token.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (None,) * int(config.num_hidden_layers)
    if strange := set(kinds) - _ATTENTION_KINDS:
        raise UnsupportedModelError(
            f"expected layers of {sorted(_ATTENTION_KINDS)}; this model has {sorted(strange)}: "
            "their state cannot be cut into chunks"
        )
    return tuple(kinds)


@torch.inference_mode()
def measure_traits(model: Any, rotary: Rotary) -> ModelTraits:
    """Run the model on a few tokens at two places, and compare what its keys do with what our rotation does.

    Raises:
        UnsupportedModelError: a layer keeps no KV, or its keys neither stay as they are nor follow the rotation.
    """
    config = model.config.get_text_config()
    kinds = layer_kinds(config)
    device = model.device
    span = min(int(config.vocab_size), 997)
    tokens = (torch.arange(_PROBE_TOKENS, device=device) * 31 + 7) % span
    here = torch.arange(_PROBE_TOKENS, device=device)
    first, second = _keys(model, tokens, here), _keys(model, tokens, here + _PROBE_SHIFT)
    if len(first.layers) != len(kinds):
        raise UnsupportedModelError(f"expected KV of {len(kinds)} layers; the model keeps {len(first.layers)}")
    start, end = rotary.angles(here), rotary.angles(here + _PROBE_SHIFT)
    rotates: list[bool] = []
    shapes: list[LayerShape] = []
    for index, (a, b) in enumerate(zip(first.layers, second.layers, strict=True)):
        if not isinstance(a.keys, torch.Tensor) or a.keys.shape[2] != _PROBE_TOKENS:
            raise UnsupportedModelError(f"expected one key per token in layer {index}; it keeps something else")
        shapes.append(LayerShape(a.keys.shape[1], a.keys.shape[3], a.values.shape[3]))
        rotates.append(_rotates(rotary, index, a.keys, b.keys, start, end))
    window = _window(config)
    uniform = kinds[0] is None or len(set(kinds)) == 1
    windows = tuple(
        window if (uniform and kind != "full_attention") or kind == "sliding_attention" else None for kind in kinds
    )
    layout = KVLayout(_data_type(first.layers[0].keys.dtype), tuple(shapes))
    return ModelTraits(layout, tuple(rotates), windows, int(config.max_position_embeddings))


def _keys(model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    model.get_decoder()(input_ids=tokens[None], position_ids=positions[None], past_key_values=cache, use_cache=True)
    return cache


def _rotates(rotary: Rotary, layer: int, a: torch.Tensor, b: torch.Tensor, start: Any, end: Any) -> bool:
    size = a.float().norm()
    limit = _TOLERANCE[a.dtype]
    if (b.float() - a.float()).norm() <= limit * size:
        return False
    try:
        moved = rotary.rotate(rotary.rotate(a.float(), layer, start, inverse=True), layer, end)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"expected keys of layer {layer} that the model's own rotary code accepts; got {error}"
        ) from None
    if (moved - b.float()).norm() > limit * size:
        raise UnsupportedModelError(
            f"expected keys of layer {layer} to follow the model's rotary embedding when their position changes; "
            "they do not: chunks of this model cannot be moved"
        )
    return True


def _window(config: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    return int(window)


def _data_type(dtype: torch.dtype) -> DataType:
    try:
        return DataType(str(dtype).removeprefix("torch."))
    except ValueError:
        raise BadRequestError(f"expected KV of {[t.value for t in DataType]}; the model computes in {dtype}") from None
