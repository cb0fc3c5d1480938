"""What a decoder gives at each level, without coding a byte."""

from collections.abc import Sequence

import numpy as np

from kvquilt_codec.joint.exact import as_stored
from kvquilt_codec.joint.layer import History, Layer
from kvquilt_codec.profile.types import Matrix
from kvquilt_router.calibration.outliers import Mask


def reconstruct(text: Sequence[Matrix], exact: Mask, layers: Sequence[Layer], depth: int) -> list[Matrix]:
    """Quantise a text's KV and undo it.

    Args:
        text: per layer `[tokens, channels]`.
        exact: `[tokens]`, those that are stored exactly.
        layers: of the model.
        depth: how many quality layers are used.

    Returns:
        Per layer `[tokens, channels]`.
    """
    history: History = []
    decoded: list[Matrix] = []
    for x, layer in zip(text, layers, strict=True):
        centred = np.where(exact[:, None], layer.transform.mean, x)
        quantised = layer.quantise(layer.forward(centred), history, exact)
        got = layer.inverse(layer.dequantise(quantised.predicted, quantised.nested[:depth]))
        got[exact] = as_stored(x[exact])
        decoded.append(got)
    return decoded
