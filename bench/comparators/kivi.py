"""KIVI: keys quantised by channel, values by token, the latest tokens kept (Liu et al., arXiv:2402.02750, alg. 1)."""

import numpy as np

from comparators import uniform
from comparators.per_tensor import PerTensor
from comparators.types import BFLOAT16
from kvquilt_codec.types import Array, Part

GROUP, RESIDUAL = 32, 128
"""The paper's G and R."""


def quantised(tokens: int, part: Part) -> int:
    """How many tokens a prefill quantises: of keys all full runs of R, of values all but the latest R."""
    return tokens - tokens % RESIDUAL if part is Part.KEYS else max(0, tokens - RESIDUAL)


class Kivi(PerTensor):
    """Groups of 32 tokens of a key channel, and of 32 channels of a token's values; float16 scales and zeros.

    Args:
        bits: 2 or 4.
    """

    method = "KIVI-like"

    def __init__(self, bits: int) -> None:
        self.level = f"int{bits}"
        self._bits = bits

    def encode_tensor(self, tensor: Array, part: Part) -> bytes:
        """See `PerTensor`."""
        end = quantised(len(tensor), part)
        channels = tensor.shape[1] * tensor.shape[2]
        flat = tensor[:end].astype(np.float32).reshape(end, channels)
        groups = flat.reshape(-1, GROUP, channels).swapaxes(1, 2) if part is Part.KEYS else flat
        return uniform.encode(groups.reshape(-1, GROUP), self._bits) + tensor[end:].tobytes()

    def decode_tensor(self, data: bytes, shape: tuple[int, int, int], part: Part) -> Array:
        """See `PerTensor`."""
        end, channels = quantised(shape[0], part), shape[1] * shape[2]
        rest = (shape[0] - end) * channels * BFLOAT16.itemsize
        cut = len(data) - rest
        flat = uniform.decode(data[:cut], end * channels // GROUP, GROUP, self._bits)
        if part is Part.KEYS:
            flat = flat.reshape(-1, channels, GROUP).swapaxes(1, 2)
        latest = np.frombuffer(data[cut:], BFLOAT16).reshape(-1, channels)
        return np.concatenate([flat.reshape(end, channels).astype(BFLOAT16), latest]).reshape(shape)
