"""Methods that store every tensor by itself, as bytes."""

from abc import ABC, abstractmethod

import numpy as np

from comparators.types import Context, Stored
from kvquilt_codec.types import Array, KVChunk, KVLayout, Part, TokenIds


class PerTensor(ABC):
    """Keys (at their positions) and values of each layer to bytes of their own. Subclasses say how."""

    method: str
    level: str
    timed = True

    @abstractmethod
    def encode_tensor(self, tensor: Array, part: Part) -> bytes:
        """`[tokens, kv_heads, dim]` in bfloat16 to bytes."""

    @abstractmethod
    def decode_tensor(self, data: bytes, shape: tuple[int, int, int], part: Part) -> Array:
        """Back to `[tokens, kv_heads, dim]` in bfloat16."""

    def encode(self, context: Context) -> Stored:
        """See `Comparator.encode`."""
        chunk = context.rotated
        content = [
            (self.encode_tensor(keys, Part.KEYS), self.encode_tensor(values, Part.VALUES))
            for keys, values in zip(chunk.keys, chunk.values, strict=True)
        ]
        return Stored(8 * sum(len(data) for pair in content for data in pair), content)

    def decode(self, stored: Stored, token_ids: TokenIds, layout: KVLayout) -> KVChunk:
        """See `Comparator.decode`."""
        tensors: dict[Part, list[Array]] = {Part.KEYS: [], Part.VALUES: []}
        for pair, shape in zip(stored.content, layout.layers, strict=True):
            for part, data in zip(tensors, pair, strict=True):
                tensor = self.decode_tensor(data, shape.of(part, len(token_ids)), part)
                tensors[part].append(np.ascontiguousarray(tensor))
        return KVChunk(layout, token_ids, tuple(tensors[Part.KEYS]), tuple(tensors[Part.VALUES]), 0)
