"""The objects that are read and stored: real containers of chosen sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.types import LayerShape, Level
from kvquilt_rpc.frames import FRAME_BYTES
from tests.codec.samples import make_chunk, make_object

SIZES = (256 << 10, 2 << 20, 16 << 20)
"""Bytes, about: a container has whole tokens."""
SHAPES = (LayerShape(3, 64, 64),) * 30
"""Of the demo model."""


@dataclass(frozen=True, slots=True)
class Made:
    """An object as a writer puts it."""

    key: bytes
    data: bytes
    meta: ObjectMeta

    @property
    def frames(self) -> Sequence[bytes]:
        """Its bytes in frames as nodes send them."""
        return [self.data[begin : begin + FRAME_BYTES] for begin in range(0, len(self.data), FRAME_BYTES)]


@cache
def _bytes_a_token() -> float:
    few, many = (len(of_tokens(tokens, 0, Level.LOSSLESS).data) for tokens in (8, 40))
    return (many - few) / 32


def of_tokens(tokens: int, seed: int, level: Level = Level.HIGH) -> Made:
    """One of the demo model's shapes."""
    return Made(*make_object(make_chunk(tokens, SHAPES, seed=seed), level, f"document {seed}"))


def of_size(size: int, count: int) -> list[Made]:
    """Different objects of about so many bytes each."""
    tokens = max(1, round(size / _bytes_a_token()))
    return [of_tokens(tokens, seed, Level.LOSSLESS) for seed in range(count)]


def small(count: int) -> list[Made]:
    """Different objects of few bytes, for look-ups."""
    shapes = (LayerShape(1, 8, 8),) * 2
    return [Made(*make_object(make_chunk(8, shapes, seed=seed), Level.HIGH, "documents")) for seed in range(count)]
