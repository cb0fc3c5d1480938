"""int8 and int4 in groups of 64 channels of one token and head."""

import numpy as np

from comparators import uniform
from comparators.per_tensor import PerTensor
from comparators.types import BFLOAT16
from kvquilt_codec.types import Array, Part

GROUP = 64


class TokenGroups(PerTensor):
    """Uniform, asymmetric, with a float16 scale and zero a group.

    Args:
        bits: 8 or 4.
    """

    def __init__(self, bits: int) -> None:
        self.method = f"int{bits}"
        self.level = f"groups of {GROUP}"
        self._bits = bits

    def encode_tensor(self, tensor: Array, part: Part) -> bytes:
        """See `PerTensor`."""
        return uniform.encode(tensor.astype(np.float32).reshape(-1, GROUP), self._bits)

    def decode_tensor(self, data: bytes, shape: tuple[int, int, int], part: Part) -> Array:
        """See `PerTensor`."""
        groups = int(np.prod(shape)) // GROUP
        return uniform.decode(data, groups, GROUP, self._bits).astype(BFLOAT16).reshape(shape)
