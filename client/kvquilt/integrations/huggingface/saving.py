"""What `generate` has computed, cut out of its cache: prompt and answer of each row, without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kvquilt.integrations.huggingface.filled import FilledBatch, FilledCache
from kvquilt.worker import Extent, KvToSave
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import Array, DataType, TokenIds


def savings(filled: FilledCache | FilledBatch, output: Any, ends: Sequence[int]) -> Iterator[KvToSave]:
    """KV that is exact and not stored yet, of each prompt that has some.

    Args:
        filled: what `generate` was given.
        output: what it returned: token ids `[prompts, tokens]`, prompts included, or an object with such `sequences`.
        ends: token ids that end an answer; what follows one is padding.

    Raises:
        BadRequestError: the output is not one answer to each of these prompts.
    """
    sequences: torch.Tensor = getattr(output, "sequences", output)
    prompts = [filled] if isinstance(filled, FilledCache) else list(filled.prompts)
    tokens = filled.input_ids.shape[1]
    if (
        sequences.dim() != 2
        or len(sequences) != len(prompts)
        or not torch.equal(sequences[:, :tokens], filled.input_ids.to(sequences.device))
    ):
        raise BadRequestError(
            f"expected what generate returned for these {len(prompts)} prompts, one answer each, the prompt first; "
            f"got token ids of shape {tuple(sequences.shape)}"
        )
    for row, prompt in enumerate(prompts):
        padding = tokens - prompt.input_ids.shape[1]
        said = _answer(sequences[row, padding:].cpu().numpy().astype(np.uint32), prompt.input_ids.shape[1], ends)
        saving = _row(filled, row, padding, prompt, said)
        if saving is not None:
            yield saving


def _answer(tokens: TokenIds, prompt: int, ends: Sequence[int]) -> TokenIds:
    """Prompt and answer up to its end."""
    (ended,) = np.isin(tokens[prompt:], np.asarray(ends, np.uint32)).nonzero()
    return tokens[: prompt + int(ended[0]) + 1] if len(ended) else tokens


def _row(
    filled: FilledCache | FilledBatch, row: int, padding: int, prompt: FilledCache, tokens: TokenIds
) -> KvToSave | None:
    layers = filled.past_key_values.layers
    if prompt.request is None or not prompt.exact or not layers:
        return None
    begin, end = prompt.stored_tokens, len(tokens) - 1  # nobody has computed the KV of the last token
    if any(len(layer.keys) <= row or layer.keys.shape[2] < padding + end for layer in layers) or begin >= end:
        return None
    cut = slice(padding + begin, padding + end)
    return KvToSave(
        replace(prompt.request, token_ids=tokens, extent=Extent.EXACT),
        [(_array(layer.keys[row, :, cut]), _array(layer.values[row, :, cut])) for layer in layers],
        exact_tokens=end,
        begin=begin,
    )


def _array(tensor: torch.Tensor) -> Array:
    """`[kv_heads, tokens, dim]` as NumPy has it; the tensor stays as it is, for a cache only ever gets new ones."""
    rows = tensor.detach().cpu()
    if rows.dtype is torch.bfloat16:
        return rows.view(torch.int16).numpy().view(DataType.BFLOAT16.numpy)
    return rows.numpy()
