"""bfloat16 as it is, and as zstd packs it."""

import numpy as np
import zstandard

from comparators.per_tensor import PerTensor
from comparators.types import BFLOAT16
from kvquilt_codec.types import Array, Part

ZSTD_LEVEL = 3


class Bf16(PerTensor):
    """A copy: what every rate is compared with."""

    method = "bf16"
    level = "16 bits"

    def encode_tensor(self, tensor: Array, part: Part) -> bytes:
        """See `PerTensor`."""
        return tensor.tobytes()

    def decode_tensor(self, data: bytes, shape: tuple[int, int, int], part: Part) -> Array:
        """See `PerTensor`."""
        return np.frombuffer(data, BFLOAT16).reshape(shape).copy()


class Zstd(Bf16):
    """zstd at its default level on the bytes of each tensor: lossless."""

    method = "zstd on bf16"
    level = "lossless"

    def encode_tensor(self, tensor: Array, part: Part) -> bytes:
        """See `PerTensor`."""
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(tensor.tobytes())

    def decode_tensor(self, data: bytes, shape: tuple[int, int, int], part: Part) -> Array:
        """See `PerTensor`."""
        return super().decode_tensor(zstandard.ZstdDecompressor().decompress(data), shape, part)
