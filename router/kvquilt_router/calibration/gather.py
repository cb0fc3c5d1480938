"""The KV that calibration learns from, as the codec sees it: un-rotated keys and values side by side."""

from collections.abc import Sequence

import numpy as np

from kvquilt_codec.joint.coder import joined
from kvquilt_codec.profile.types import Matrix
from kvquilt_codec.types import KVChunk, KVLayout, TokenIds
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.engine import Engine


def key_channels(layout: KVLayout, layer: int) -> int:
    """Channels of a layer's keys; they come before those of its values."""
    shape = layout.layers[layer]
    return shape.kv_heads * shape.key_dim


class Gathered:
    """KV of several texts, each computed by itself from position 0.

    It is kept in the model's element type, `layout.nbytes(tokens)` bytes (for 32,768 tokens of a model with 8 KV heads
    of 128 in 32 layers, in bfloat16: 4.3 GB); float32 is made of one layer at a time.

    Args:
        chunks: un-rotated.
    """

    def __init__(self, chunks: Sequence[KVChunk]) -> None:
        self.chunks = tuple(chunks)
        self.layout: KVLayout = self.chunks[0].layout
        self.lengths = tuple(chunk.tokens for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(self.lengths)

    def layer(self, index: int) -> Matrix:
        """`[tokens, channels]` of one layer, all texts one after the other."""
        return np.concatenate([joined(chunk.keys[index], chunk.values[index]) for chunk in self.chunks])

    def text(self, number: int) -> list[Matrix]:
        """`[tokens, channels]` of every layer of one text."""
        chunk = self.chunks[number]
        return [joined(keys, values) for keys, values in zip(chunk.keys, chunk.values, strict=True)]


def gather(engine: Engine, texts: Sequence[TokenIds], stage: str = "prefill", progress: Progress = silent) -> Gathered:
    """Prefill each text.

    Raises:
        BadRequestError: the model computes NaN or Inf, or cannot take a text.
    """
    chunks = []
    for done, token_ids in enumerate(texts):
        progress(stage, done, len(texts))
        chunk = engine.to_chunk(token_ids, engine.prefill(token_ids), 0, unrotate=True)
        chunk.check_finite()
        chunks.append(chunk)
    progress(stage, len(texts), len(texts))
    return Gathered(chunks)
