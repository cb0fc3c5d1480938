"""What a decoder gives at each level, by plain arithmetic: the quality of a profile, without coding a byte."""

from collections.abc import Sequence

import numpy as np

from kvquilt_codec.profile.types import LayerTransform, Matrix
from kvquilt_codec.transform.stages import Rotate, Weigh
from kvquilt_router.calibration.outliers import Mask
from kvquilt_router.calibration.quantise import coarsen, quantise


def reconstruct(
    text: Sequence[Matrix], exact: Mask, layers: Sequence[LayerTransform], step: float, depths: int
) -> list[list[Matrix]]:
    """Quantise a text's KV and undo it.

    Args:
        text: per layer `[tokens, channels]`.
        exact: `[tokens]`, those that stay as they are.
        layers: transforms.
        step: width of the finest quantisation interval.
        depths: how many quality layers there are.

    Returns:
        Per number of quality layers used, the fewest first: per layer `[tokens, channels]`.
    """
    levels: list[list[Matrix]] = [[] for _ in range(depths)]
    history: list[Matrix] = []
    for x, layer in zip(text, layers, strict=True):
        weigh, rotate = Weigh(layer.mean, layer.weight), Rotate(layer.basis)
        guess: Matrix | float = 0.0
        if layer.predictor is not None:
            reach = len(layer.predictor) // layer.channels if history else 0
            guess = np.concatenate(history[:reach], axis=1) @ layer.predictor
        z = weigh.forward(x)
        q = quantise(rotate.forward(z - guess), step)
        decoded = []
        for depth in range(depths):
            times = depths - 1 - depth
            width = np.float32(step * 3**times)
            decoded.append(rotate.inverse(coarsen(q, times).astype(np.float32) * width) + guess)
        history = [decoded[0], *history][:2]
        for level, z_decoded in zip(levels, decoded, strict=True):
            level.append(np.where(exact[:, None], x, weigh.inverse(z_decoded)))
    return levels
