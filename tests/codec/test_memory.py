"""What decoding takes beside its input: at most as much again as its result."""

import tracemalloc

import pytest

from kvquilt_codec import container
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import LayerShape, Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, chunk_identity, make_chunk

SHAPES = (LayerShape(3, 64, 64),) * 30
"""Those of the demo model."""


@pytest.mark.parametrize("level", [None, Level.LOSSLESS, Level.HIGH], ids=["with a profile", "lossless", "8 bits"])
@pytest.mark.parametrize("tokens", [256, 600])
def test_decoding_takes_at_most_twice_its_result(level: Level | None, tokens: int) -> None:
    chunk = make_chunk(tokens, SHAPES)
    coder: JointCoder | None = make_coder(make_profile(SHAPES, step=1.0)) if level is None else None
    data = container.encode(chunk, level or Level.HIGH, chunk_identity(chunk), coder)
    coders = None if coder is None else lambda _: coder
    tracemalloc.start()
    try:
        decoded = container.decode(data, FINGERPRINT, coders=coders)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoded.chunk().tokens == tokens
    assert peak <= 2 * chunk.layout.nbytes(tokens), (peak, len(data), chunk.layout.nbytes(tokens))
