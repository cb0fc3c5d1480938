"""A tiny random model in a folder, for a router process and for what its answers are compared with."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from kvquilt import BlendedKV
from kvquilt_router.engine import LoadedModel, load_model
from tests.router.families import SUPPORTED, tiny

VOCABULARY = 500
TOLERANCE = 5e-4
"""Most that KV may differ from a full prefill's: it is computed in other pieces, in float32."""


def saved(folder: Path, **sizes: int) -> LoadedModel:
    """The model, of these `sizes`, loaded from where it was saved; its tokens are words `t0` to `t499`."""
    kind, extra = SUPPORTED["llama"]
    tiny(kind, {**extra, **sizes}).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{number}": number for number in range(VOCABULARY)}))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    torch.set_num_threads(1)
    return load_model(str(folder))


class FullPrefill:
    """What a prompt's KV is when nothing is cached, computed once."""

    def __init__(self, model: LoadedModel, tokens: list[int]) -> None:
        ids = np.asarray(tokens, np.uint32)
        chunk = model.engine.to_chunk(ids, model.engine.prefill(ids), 0, unrotate=False)
        self._layers = [*zip(chunk.keys, chunk.values, strict=True)]

    def difference(self, kv: BlendedKV) -> float:
        """The largest absolute one of a blend's keys and values."""
        return max(
            float(np.abs(got - expected).max())
            for layer, (keys, values) in zip(kv.layers, self._layers, strict=True)
            for got, expected in ((layer.keys, keys), (layer.values, values))
        )
