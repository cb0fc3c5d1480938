"""The chunks and the valid containers that the hostile ones are made of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.types import DataType, KVChunk, KVLayout, LayerShape, Level, SideInfo, VariantKind

FOLDER = Path(__file__).parent
FINGERPRINT = "5e" * 32
TOKEN_IDS = [0, 17, 4_294_967_295]


def golden_chunk() -> KVChunk:
    """Two layers of different shape, three tokens; every value is exact in bfloat16."""
    layout = KVLayout(DataType.BFLOAT16, (LayerShape(1, 4, 4), LayerShape(2, 2, 3)))

    def tensor(shape: tuple[int, int, int], start: int) -> np.ndarray:
        steps = np.arange(start, start + shape[0] * shape[1] * shape[2])
        return ((steps * 37 % 101 - 50) * 2.0 ** (steps * 7 % 23 - 11)).astype(np.float32).reshape(shape)

    keys = [tensor((3, 1, 4), 0), tensor((3, 2, 2), 100)]
    values = [tensor((3, 1, 4), 200), tensor((3, 2, 3), 300)]
    keys[0][0, 0, :2] = [-0.0, 2.0**-133]  # the smallest bfloat16 denormal
    as_bfloat16 = [[t.astype(layout.data_type.numpy) for t in tensors] for tensors in (keys, values)]
    return KVChunk(layout, np.array(TOKEN_IDS, np.uint32), tuple(as_bfloat16[0]), tuple(as_bfloat16[1]), None)


def smooth_chunk() -> KVChunk:
    """Enough tokens for the entropy coder to pay: keys of codec 7's mode 1, with an escape and a channel of zeros."""
    layout = KVLayout(DataType.BFLOAT16, (LayerShape(1, 4, 2),))
    steps = np.arange(96 * 4).reshape(96, 1, 4)
    keys = ((steps * 37 % 101 + 20) * 2.0**-6).astype(np.float32)
    keys[:, 0, 3] = 0
    keys[50, 0, 1] = -(2.0**-30)
    values = (keys[:, :, :2] - 1).astype(layout.data_type.numpy)
    token_ids = np.arange(96, dtype=np.uint32)
    return KVChunk(layout, token_ids, (keys.astype(layout.data_type.numpy),), (values,), None)


def golden_side() -> SideInfo:
    """Of the first chunk; every value is a power of two, so that nothing is rounded."""
    powers = 2.0 ** -np.arange(9, dtype=np.float32)
    dependence = np.zeros((2, 2, 3), np.float32)
    dependence[0, 0], dependence[1] = powers[:3], powers[3:].reshape(2, 3)
    dependence[1, 0, 1] = 0
    return SideInfo(dependence, powers[1:4])


def golden_container(chunk: KVChunk, level: Level, side: SideInfo | None = None) -> bytes:
    """What today's encoder writes; `valid-v1*.kvq` are what the first one wrote."""
    identity = ChunkIdentity(
        FINGERPRINT, bytes(range(32)), VariantKind.EXACT, bytes(range(32, 64)), {"document_ids": '["doc"]'}
    )
    return container.encode(chunk, level, identity, side=side)


VALID: dict[str, tuple[Callable[[], KVChunk], Level, SideInfo | None]] = {
    "valid-v1": (golden_chunk, Level.LOSSLESS, None),
    "valid-v1-coded": (smooth_chunk, Level.LOSSLESS, None),
    "valid-v1-high": (golden_chunk, Level.HIGH, None),
    "valid-v1-side": (golden_chunk, Level.LOSSLESS, golden_side()),
}
"""Name of a file: its chunk, level and side information."""
