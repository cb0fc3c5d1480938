"""fp8 e4m3 without a scale, as serving engines keep an fp8 KV cache by default."""

import ml_dtypes
import numpy as np

from comparators.per_tensor import PerTensor
from comparators.types import BFLOAT16
from kvquilt_codec.types import Array, Part

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0


class Fp8(PerTensor):
    """Rounds to the nearest; beyond 448 it saturates (the format has no Inf)."""

    method = "fp8 e4m3"
    level = "8 bits"

    def encode_tensor(self, tensor: Array, part: Part) -> bytes:
        """See `PerTensor`."""
        return tensor.astype(np.float32).clip(-LARGEST, LARGEST).astype(E4M3).tobytes()

    def decode_tensor(self, data: bytes, shape: tuple[int, int, int], part: Part) -> Array:
        """See `PerTensor`."""
        return np.frombuffer(data, E4M3).astype(np.float32).astype(BFLOAT16).reshape(shape)
