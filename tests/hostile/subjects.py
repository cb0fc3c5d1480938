"""Valid containers of every codec for the fuzz, the profiles they need, and the ways to read one."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

from kvquilt_codec import container
from kvquilt_codec.container import ContainerDecoder, DecodedChunk
from kvquilt_codec.container.head import MAX_DECODED_BYTES_ANYWAY
from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import DataType, LayerShape, Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, UNEVEN, bits, make_chunk, make_container, make_side

SHAPES = (LayerShape(1, 3, 2), LayerShape(2, 2, 2))
UNEVEN_CHUNK, LONG_CHUNK = make_chunk(5, UNEVEN, seed=2), make_chunk(258, SHAPES, seed=6)
CODERS = [
    make_coder(make_profile(SHAPES, history=2, distance=1.0)),
    make_coder(make_profile(SHAPES, history=0, quality_layers=2)),
]
VALID = {
    "lossless, as it is": make_container(make_chunk(4, SHAPES, seed=1)),
    "lossless, coded": make_container(make_chunk(200, SHAPES, seed=7)),
    "lossless float16, coded": make_container(make_chunk(150, (LayerShape(2, 3, 4),), DataType.FLOAT16, seed=8)),
    "lossless float32, two blocks": make_container(make_chunk(257, SHAPES, DataType.FLOAT32, seed=3)),
    "high, side information": make_container(UNEVEN_CHUNK, Level.HIGH, side=make_side(UNEVEN_CHUNK)),
    "high float16, rotated": make_container(
        make_chunk(9, SHAPES, DataType.FLOAT16, rotated_from=7, seed=4), Level.HIGH
    ),
    "joint, predicted": make_container(make_chunk(20, SHAPES, seed=5), Level.HIGH, coder=CODERS[0]),
    "joint, two blocks, side information": make_container(
        LONG_CHUNK, Level.HIGH, coder=CODERS[1], side=make_side(LONG_CHUNK)
    ),
}


def coders(digest: str) -> JointCoder:
    """As a reader that has the profiles above."""
    for coder in CODERS:
        if coder.digest == digest:
            return coder
    raise NotFoundError("expected a profile that the tests made; got another digest")


def tensors(decoded: DecodedChunk) -> list[bytes]:
    """Token ids, side information, then keys and values of each layer."""
    own = [bits(decoded.token_ids), *side_of(decoded)]
    return [*own, *(bits(t) for layer in decoded.kv for t in (layer.keys, layer.values))]


def side_of(decoded: DecodedChunk) -> list[bytes]:
    """Side information, as far as there is any."""
    parts = (decoded.side.dependence, decoded.side.inter) if decoded.side is not None else ()
    return [bits(part) for part in parts if part is not None]


def read_whole(data: bytes, layers: range | None = None, quality_layers: int | None = None) -> DecodedChunk:
    """All at once, or of some layers and quality layers what they need."""
    return container.decode(data, FINGERPRINT, layers, quality_layers, coders)


def read_in_pieces(data: bytes, rng: random.Random) -> DecodedChunk:
    """As bytes arrive."""
    decoder = ContainerDecoder(FINGERPRINT, coders=coders)
    position = 0
    while position < len(data):
        size = rng.randrange(1, 400)
        decoder.feed(data[position : position + size])
        position += size
    return decoder.finish()


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Allocations beyond what any container may claim fail: a MemoryError, which no test expects."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_DECODED_BYTES_ANYWAY + (64 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
