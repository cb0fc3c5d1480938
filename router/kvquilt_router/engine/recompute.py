"""Selective recompute: chosen tokens of a prompt, in one forward pass over the KV of all of it."""

import contextlib

import numpy as np
import torch

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.blocks import BlockStructure
from kvquilt_router.engine.blockwise import blockwise
from kvquilt_router.engine.filtering import FilteredTokens
from kvquilt_router.engine.kv import LayerTensors, PromptKV
from kvquilt_router.engine.masks import scatter_mask
from kvquilt_router.engine.runner import Enough, ModelRunner
from kvquilt_router.engine.scatter import ActiveTokens, BeforeLayer, OnLayer
from kvquilt_router.selection import LayerFilter
from kvquilt_router.types import Indices


def recompute(
    runner: ModelRunner,
    token_ids: TokenIds,
    kv: PromptKV,
    positions: Indices,
    on_layer: OnLayer,
    *,
    layer_filter: LayerFilter | None,
    context: int,
    missing: Indices,
    visible: BlockStructure | None,
    before_layer: BeforeLayer | None,
) -> None:
    """See `Engine.recompute`."""
    runner.check(token_ids, len(token_ids))
    if len(token_ids) < kv.tokens:
        raise BadRequestError(
            f"expected the {kv.tokens} tokens that the KV has room for, or more; got {len(token_ids)}"
        )
    if not 0 <= context <= kv.tokens:
        raise BadRequestError(f"expected a context of at most {kv.tokens} tokens, all of the KV; got {context}")
    slots = runner.slots(positions, kv.tokens)
    finished = 0

    def count(index: int, layer: LayerTensors) -> None:
        nonlocal finished
        finished = index + 1
        on_layer(index, layer)

    if len(positions):
        mask = scatter_mask(
            runner.model, runner.traits, slots, kv.tokens, visible=visible, explicit=layer_filter is not None
        )
        if layer_filter is None:
            with blockwise(runner, slots, mask):
                runner.scatter(token_ids, kv.layers, ActiveTokens(slots), count, mask, before_layer)
        else:
            droppable = torch.from_numpy((positions < context) & ~np.isin(positions, missing)).to(runner.device)
            tokens = FilteredTokens(slots, droppable, context, layer_filter)
            with tokens.narrowing(runner), contextlib.suppress(Enough):
                runner.scatter(token_ids, kv.layers, tokens, count, mask, before_layer)
    for index in range(finished, len(kv.layers)):  # nobody is left to compute them: they are finished as they are
        if before_layer is not None:
            before_layer(index)
        on_layer(index, kv.layers[index])
