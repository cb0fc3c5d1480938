"""The vocabulary of the comparison: what every method is given, what it keeps, and what it gives back."""

from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from kvquilt_codec.types import Array, DataType, KVChunk, KVLayout, TokenIds

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The KV of one context in bfloat16, in the two forms that methods take.

    Attributes:
        rotated: keys at their positions, as an engine's cache holds them.
        unrotated: the same keys free of position.
    """

    rotated: KVChunk
    unrotated: KVChunk

    @property
    def token_ids(self) -> TokenIds:
        """`[tokens]`."""
        return self.rotated.token_ids

    @property
    def layout(self) -> KVLayout:
        """Shapes, in bfloat16."""
        return self.rotated.layout

    @property
    def elements(self) -> int:
        """KV elements."""
        return self.rotated.tokens * self.layout.elements_per_token


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A context as a method keeps it.

    Attributes:
        bits: everything that decoding needs beside the method's static tables, the token ids and the layout.
        content: the method's own.
    """

    bits: float
    content: Any


class Comparator(Protocol):
    """A method at one level."""

    method: str
    level: str
    timed: bool
    """Whether encode and decode do all the work that a use of the method would do."""

    def encode(self, context: Context) -> Stored:
        """Compress."""

    def decode(self, stored: Stored, token_ids: TokenIds, layout: KVLayout) -> KVChunk:
        """What comes back, in bfloat16."""


def in_bfloat16(chunk: KVChunk) -> KVChunk:
    """The chunk with its tensors rounded to bfloat16."""
    return cast(chunk, DataType.BFLOAT16)


def cast(chunk: KVChunk, data_type: DataType) -> KVChunk:
    """The chunk in another element type."""
    layout = KVLayout(data_type, chunk.layout.layers)

    def each(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(array.astype(data_type.numpy) for array in arrays)

    return KVChunk(layout, chunk.token_ids, each(chunk.keys), each(chunk.values), chunk.rotated_from)
