"""What storing KV costs with given tables: an estimate, by the tables' own entropy, without coding a byte."""

from collections.abc import Sequence

from kvquilt_codec.joint.exact import EXACT_BITS
from kvquilt_codec.types import TOKEN_BLOCK
from kvquilt_kernels.entropy import lanes_for
from kvquilt_router.calibration.fit import Sample

LANE_BITS = 16
"""Measured: what a lane of the entropy coder adds to a block."""


def bits_per_element(sample: Sample, coding_bits: Sequence[float]) -> float:
    """Bits per KV element of a sample.

    Exact tokens count as 16-bit numbers. Headers and the index of a container are not counted.

    Args:
        sample: what was coded.
        coding_bits: of the symbols of every quality layer used.
    """
    layout = sample.gathered.layout
    channels = [layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in layout.layers]
    exact = int(sample.exact.sum()) * sum(channels) * EXACT_BITS
    lanes = sum(
        lanes_for(min(TOKEN_BLOCK, tokens - begin), count)
        for tokens in sample.gathered.lengths
        for begin in range(0, tokens, TOKEN_BLOCK)
        for count in channels
    )
    total = sum(coding_bits) + exact + LANE_BITS * lanes * len(coding_bits)
    return total / (sample.gathered.tokens * sum(channels))
