"""Looks into a prompt whose chunks are in place: what a policy chooses by."""

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.kv import LayerTensors, PromptKV
from kvquilt_router.engine.masks import scatter_mask
from kvquilt_router.engine.observe import Attention, observed
from kvquilt_router.engine.runner import Enough, ModelRunner
from kvquilt_router.engine.scatter import ActiveTokens, BeforeLayer, OnLayer


def value_deviation(
    runner: ModelRunner, token_ids: TokenIds, kv: PromptKV, context: int, layer: int
) -> NDArray[np.float32]:
    """See `Engine.value_deviation`."""
    _check_layer(kv, layer)
    stored = kv.layers[layer].values[:, :, :context].to(torch.float32, copy=True)
    layers = [_part(tensors, 0, context) for tensors in kv.layers[: layer + 1]]

    def until(index: int, _: LayerTensors) -> None:
        if index == layer:
            raise Enough

    with contextlib.suppress(Enough):
        _compute_all(runner, token_ids, layers, until)
    fresh = kv.layers[layer].values[:, :, :context].float()
    return _numpy((fresh - stored).square().sum((0, 1, 3)))


def high_deviation(
    runner: ModelRunner, token_ids: TokenIds, kv: PromptKV, context: int, layer: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """See `Engine.high_deviation`."""
    _check_layer(kv, layer)
    stored = kv.layers[layer].values[:, :, :context].to(torch.float32, copy=True)
    column = torch.zeros(context, device=runner.device)

    def look(attention: Attention) -> None:
        if attention.layer == layer:
            for part in attention.weights(torch.arange(kv.tokens, device=runner.device)):
                column.add_(part[..., :context].sum((0, 1, 2)))
            raise Enough

    with observed(runner.model, look), contextlib.suppress(Enough):
        _compute_all(runner, token_ids, kv.layers, lambda *_: None)
    fresh = kv.layers[layer].values[:, :, :context].float()
    return _numpy((fresh - stored).abs().sum((0, 1, 3))), _numpy(column)


def question_attention(
    runner: ModelRunner,
    token_ids: TokenIds,
    kv: PromptKV,
    context: int,
    weights: NDArray[np.float32] | None = None,
    before_layer: BeforeLayer | None = None,
) -> NDArray[np.float32]:
    """See `Engine.question_attention`."""
    layers = kv.layers
    if kv.tokens == context:  # a question of one token has no room in the KV: the worker computes it
        for index in range(len(layers)):  # copies of layers can only be made of what is there
            if before_layer is not None:
                before_layer(index)
        layers, before_layer = [_with_room(layer) for layer in layers], None
    total = torch.zeros(context, device=runner.device)
    slots = torch.arange(context, layers[0].keys.shape[2], device=runner.device)
    factors = None if weights is None else torch.from_numpy(weights).to(runner.device)

    def look(attention: Attention) -> None:
        for part in attention.weights(torch.arange(len(slots), device=runner.device)):
            per_head = part[..., :context].sum((1, 2))
            total.add_((per_head if factors is None else per_head * factors[attention.layer]).sum(0))

    mask = scatter_mask(runner.model, runner.traits, slots, layers[0].keys.shape[2])
    with observed(runner.model, look):
        runner.scatter(token_ids, layers, ActiveTokens(slots), lambda *_: None, mask, before_layer)
    return _numpy(total)


def _compute_all(runner: ModelRunner, token_ids: TokenIds, layers: list[LayerTensors], on_layer: OnLayer) -> None:
    active = ActiveTokens(torch.arange(layers[0].keys.shape[2], device=runner.device))
    runner.scatter(token_ids, layers, active, on_layer, None)


def _check_layer(kv: PromptKV, layer: int) -> None:
    if not 0 <= layer < len(kv.layers):
        raise BadRequestError(f"expected a layer from 0 to {len(kv.layers) - 1}; got {layer}")


def _part(tensors: LayerTensors, begin: int, end: int) -> LayerTensors:
    return LayerTensors(tensors.keys[:, :, begin:end], tensors.values[:, :, begin:end])


def _with_room(tensors: LayerTensors) -> LayerTensors:
    pad = (0, 0, 0, 1)
    return LayerTensors(torch.nn.functional.pad(tensors.keys, pad), torch.nn.functional.pad(tensors.values, pad))


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.cpu().numpy()
    return array
