"""What a decoder gives at each level, by plain arithmetic: the quality of a profile, without coding a byte."""

from collections.abc import Sequence

import numpy as np

from kvquilt_codec.profile.types import MAX_HISTORY, LayerTransform, Matrix
from kvquilt_codec.transform.stages import Rotate, Weigh, predict
from kvquilt_router.calibration.outliers import Mask
from kvquilt_router.calibration.quantise import dequantise, quantise


def reconstruct(
    text: Sequence[Matrix], exact: Mask, layers: Sequence[LayerTransform], step: float, depths: int, depth: int
) -> list[Matrix]:
    """Quantise a text's KV and undo it.

    Args:
        text: per layer `[tokens, channels]`.
        exact: `[tokens]`, those that stay as they are.
        layers: transforms.
        step: width of the finest quantisation interval.
        depths: how many quality layers there are.
        depth: how many of them are used.

    Returns:
        Per layer `[tokens, channels]`.
    """
    decoded: list[Matrix] = []
    history: list[Matrix] = []
    for x, layer in zip(text, layers, strict=True):
        weigh, rotate = Weigh(layer.mean, layer.weight), Rotate(layer.basis)
        guess = predict(history, layer.predictor)
        q = quantise(rotate.forward(weigh.forward(x) - guess), step)
        coarse = rotate.inverse(dequantise(q, step, depths - 1)) + guess
        z = coarse if depth == 1 else rotate.inverse(dequantise(q, step, depths - depth)) + guess
        history = [coarse, *history][:MAX_HISTORY]
        decoded.append(np.where(exact[:, None], x, weigh.inverse(z)))
    return decoded
