"""Tokens that are stored exactly, because rounding them would cost more than any others (docs/codec.md, codec 3).

Payload of one token block and layer: `u16 n | n positions in the block as u16, ascending | their tensors`, keys and
then values of each token, in the container's element type; those of a float32 container in bfloat16, as models that
serve hold them.
"""

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.profile.types import OutlierRule
from kvquilt_codec.types import Array

EXACT_BITS = 16
"""What an element of an exact token takes."""

Rows = NDArray[np.bool_]
"""`[tokens]`: which tokens are stored exactly."""


def outliers(rule: OutlierRule, centred_keys: NDArray[np.float32]) -> Rows:
    """The tokens that a rule picks from the keys of its layer less their mean, `[tokens, key channels]`."""
    return mark(rule, np.sqrt(np.square(centred_keys.astype(np.float64)).sum(axis=1)))


def mark(rule: OutlierRule, distance: NDArray[np.floating]) -> Rows:
    """The tokens of one chunk that a rule picks by their distances `[tokens]`."""
    budget = -(-len(distance) // rule.tokens_per_outlier)
    farthest = np.argsort(-distance, kind="stable")[:budget]
    marked = np.zeros(len(distance), np.bool_)
    marked[farthest] = distance[farthest] > rule.distance
    return marked


def encode_exact(rows: Rows, keys: Array, values: Array) -> bytes:
    """Payload of the tokens in `rows`; keys and values are `[tokens, kv_heads, dim]`."""
    (positions,) = np.nonzero(rows)
    tensors = as_stored(np.concatenate([_flat(keys)[positions], _flat(values)[positions]], axis=1))
    return np.array([len(positions), *positions], "<u2").tobytes() + tensors.tobytes()


def as_stored(tensors: Array) -> Array:
    """Numbers of exact tokens in the type that they are stored in."""
    stored = _stored_type(tensors.dtype)
    if stored == tensors.dtype:
        return tensors
    largest = np.float32(ml_dtypes.finfo(stored).max)
    return np.clip(tensors, -largest, largest).astype(stored)


def decode_exact(payload: bytes | memoryview, keys: Array, values: Array) -> NDArray[np.int64]:
    """Write the payload's tokens into keys and values `[tokens, kv_heads, dim]`; return their positions.

    Raises:
        IntegrityError: not a payload of a block of this shape.
    """
    view = memoryview(payload)
    tokens, key_channels = len(keys), keys[0].size
    channels = key_channels + values[0].size
    count = int.from_bytes(view[:2], "little") if len(view) >= 2 else -1
    stored = _stored_type(keys.dtype)
    size = 2 + count * (2 + channels * stored.itemsize)
    if not 1 <= count <= tokens or len(view) != size:
        raise IntegrityError(f"expected 1 to {tokens} exact tokens of {channels} channels; got {len(view)} bytes")
    positions = np.frombuffer(view, "<u2", count=count, offset=2).astype(np.int64)
    if positions[-1] >= tokens or (positions[1:] <= positions[:-1]).any():
        raise IntegrityError(f"expected ascending positions below {tokens}; got others")
    tensors = np.frombuffer(view, np.uint8, offset=2 + 2 * count).view(stored).reshape(count, channels)
    _flat(keys)[positions] = tensors[:, :key_channels]
    _flat(values)[positions] = tensors[:, key_channels:]
    return positions


def _stored_type(data_type: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return np.dtype(ml_dtypes.bfloat16) if data_type == np.float32 else data_type


def _flat(tensor: Array) -> Array:
    return tensor.reshape(len(tensor), -1)
