"""Prompts of different lengths as one batch: padded on the left, so that all end at the same place.

A row's tokens keep their positions, which count from its first token; only the places in the tensors are later ones.
Padding is zeros: the attention mask takes it out, and a masked place adds nothing only if it is finite.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from kvquilt.integrations.huggingface.filled import FilledBatch, FilledCache


def batch(model: Any, prompts: Sequence[FilledCache], padding_id: int) -> FilledBatch:
    """One batch of prompts, which it uses up; what a prompt's cache lacks of its tokens but the last is computed here.

    Args:
        model: the causal LM.
        prompts: at least one.
        padding_id: token id at places that are masked.
    """
    lengths = [prompt.input_ids.shape[1] for prompt in prompts]
    input_ids = prompts[0].input_ids.new_full((len(prompts), max(lengths)), padding_id)
    mask = torch.zeros_like(input_ids)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        input_ids[row, -length:] = prompt.input_ids[0]
        mask[row, -length:] = 1
    cache = DynamicCache()
    if any(prompt.past_key_values.get_seq_length() for prompt in prompts):
        for prompt in prompts:
            _complete(model, prompt)
        cache = _padded([prompt.past_key_values for prompt in prompts], [length - 1 for length in lengths])
    return FilledBatch(input_ids, mask, cache, tuple(prompts))


@torch.no_grad()
def _complete(model: Any, prompt: FilledCache) -> None:
    """Compute what the cache lacks, in it: rows of a batch have KV up to the same place."""
    known, wanted = prompt.past_key_values.get_seq_length(), prompt.input_ids.shape[1] - 1
    if known < wanted:
        model.get_decoder()(prompt.input_ids[:, known:wanted], past_key_values=prompt.past_key_values, use_cache=True)


def _padded(rows: Sequence[DynamicCache], lengths: Sequence[int]) -> DynamicCache:
    """One cache of all rows; each row's layers are let go as soon as they are copied."""
    longest = max(lengths)
    pairs = []
    for index in range(max(len(row.layers) for row in rows)):
        layers = [row.layers[index] if length else None for row, length in zip(rows, lengths, strict=True)]
        pairs.append(
            tuple(
                _stacked([None if layer is None else getattr(layer, part) for layer in layers], longest)
                for part in ("keys", "values")
            )
        )
        for layer in filter(None, layers):
            layer.keys = layer.values = None
    return DynamicCache(pairs)


def _stacked(tensors: Sequence[torch.Tensor | None], longest: int) -> torch.Tensor:
    """`[1, kv_heads, tokens, dim]` each, or nothing, to `[rows, kv_heads, longest, dim]`."""
    first = next(tensor for tensor in tensors if tensor is not None)
    _, heads, _, dim = first.shape
    stacked = first.new_zeros(len(tensors), heads, longest, dim)
    for row, tensor in enumerate(tensors):
        if tensor is not None:
            stacked[row, :, longest - tensor.shape[2] :] = tensor[0]
    return stacked
