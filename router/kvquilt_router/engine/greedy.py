"""Greedy decoding after KV that is at hand."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kvquilt_router.engine.kv import LayerTensors


@torch.inference_mode()
def decode_greedily(model: Any, token_id: int, context: Sequence[LayerTensors], count: int) -> torch.Tensor:
    """Log-probabilities `[count, vocabulary]` (float32) of `count` tokens, each the likeliest after those before it.

    Args:
        model: decodes; end-of-sequence tokens do not stop it.
        token_id: the last token of the prompt, which is not in `context`.
        context: KV of all tokens before it; stays as it is.
        count: tokens to decode.
    """
    cache = DynamicCache([(layer.keys, layer.values) for layer in context])
    position = context[0].keys.shape[2]
    rows: list[torch.Tensor] = []
    token = torch.tensor([[token_id]], device=model.device)
    for step in range(count):
        positions = torch.tensor([[position + step]], device=model.device)
        output = model(input_ids=token, position_ids=positions, past_key_values=cache, use_cache=True)
        rows.append(output.logits[0, -1].float().log_softmax(-1))
        token = rows[-1].argmax()[None, None]
    return torch.stack(rows)
