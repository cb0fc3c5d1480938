"""How far a chunk's KV depends on what precedes it: measured when it is computed, stored with it, used to choose."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.types import Array


def dependence(values: Sequence[Array], base: Sequence[Array]) -> NDArray[np.float32]:
    """How far each token's values depend on what precedes its chunk, `[layers, kv_heads, tokens]`.

    `||V - V_base||_2 / mean ||V||_2`, the mean over the layer's tokens and heads.

    Args:
        values: per layer `[tokens, kv_heads, value_dim]`, computed after some other text.
        base: computed after the shared prefix alone.
    """
    rows = []
    for ours, plain in zip(values, base, strict=True):
        wide = ours.astype(np.float32)
        norm = float(np.linalg.norm(wide, axis=2).mean()) or 1.0
        rows.append(np.linalg.norm(wide - plain.astype(np.float32), axis=2).T / norm)
    return np.stack(rows).astype(np.float32)
