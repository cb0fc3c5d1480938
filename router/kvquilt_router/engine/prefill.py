"""Computing chunks after a prefix: one at a time, several in one pass, or with a look at their attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine.masks import chunk_positions, packed_mask
from kvquilt_router.engine.observe import Attention, observed
from kvquilt_router.engine.runner import ModelRunner, length


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSums:
    """Attention that each token of a chunk gave, mean over layers and heads (Cache-Craft, equations 3 and 4, by token).

    Attributes:
        inter: `[spans, tokens]`, to each span of what precedes the chunk.
        intra: `[tokens]`, to the chunk itself.
    """

    inter: NDArray[np.float32]
    intra: NDArray[np.float32]


def prefill(runner: ModelRunner, token_ids: TokenIds, prefix: Sequence[LayerTensors]) -> list[LayerTensors]:
    """See `Engine.prefill`."""
    begin = length(prefix)
    cache = runner.append(token_ids, prefix)
    return [LayerTensors(layer.keys[:, :, begin:], layer.values[:, :, begin:]) for layer in cache.layers]


def prefill_observed(
    runner: ModelRunner, token_ids: TokenIds, prefix: Sequence[LayerTensors], spans: Sequence[tuple[int, int]]
) -> tuple[list[LayerTensors], AttentionSums]:
    """See `Engine.prefill_observed`."""
    begin = length(prefix)
    if wrong := [span for span in spans if not 0 <= span[0] < span[1] <= begin]:
        raise BadRequestError(f"expected spans within the {begin} tokens before the chunk; got {wrong}")
    sums = torch.zeros(len(spans) + 1, len(token_ids), device=runner.device)
    rows = torch.arange(len(token_ids), device=runner.device)

    def look(attention: Attention) -> None:
        done = 0
        for weights in attention.weights(rows):
            part = slice(done, done + weights.shape[2])
            done = part.stop
            for index, (first, last) in enumerate([*spans, (begin, begin + len(rows))]):
                sums[index, part] += weights[..., first:last].sum(-1).mean((0, 1))

    with observed(runner.model, look):
        layers = prefill(runner, token_ids, prefix)
    mean = (sums / len(layers)).cpu().numpy()
    return layers, AttentionSums(mean[:-1], mean[-1])


def prefill_packed(
    runner: ModelRunner, chunks: Sequence[TokenIds], prefix: Sequence[LayerTensors]
) -> list[list[LayerTensors]]:
    """See `Engine.prefill_packed`."""
    lengths = [len(chunk) for chunk in chunks]
    if min(lengths, default=0) == 0:
        raise BadRequestError(f"expected chunks of at least 1 token; got lengths {lengths}")
    if len(chunks) == 1:
        return [prefill(runner, chunks[0], prefix)]
    begin = length(prefix)
    positions = chunk_positions(begin, lengths, runner.device)
    mask = packed_mask(runner.model, runner.traits, begin, lengths, runner.device)
    cache = runner.append(np.concatenate(chunks), prefix, positions, mask)
    packed: list[list[LayerTensors]] = []
    for tokens in lengths:
        part = slice(begin, begin + tokens)
        packed.append([LayerTensors(layer.keys[:, :, part], layer.values[:, :, part]) for layer in cache.layers])
        begin = part.stop
    return packed
