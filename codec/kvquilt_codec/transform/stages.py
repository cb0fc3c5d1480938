"""The stages between a layer's tensors and the numbers that are quantised; each undoes what it does.

All work on float32 `[tokens, channels]` and return new arrays.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


class TensorStage(Protocol):
    """One invertible step."""

    def forward(self, x: Tensor) -> Tensor:
        """Towards the quantiser."""

    def inverse(self, y: Tensor) -> Tensor:
        """Back."""


class Weigh:
    """Removes the mean and multiplies by a weight, both per channel: `weight * (x - mean)`."""

    def __init__(self, mean: Tensor, weight: Tensor) -> None:
        self._mean = mean
        self._weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """See `TensorStage.forward`."""
        return (x - self._mean) * self._weight

    def inverse(self, y: Tensor) -> Tensor:
        """See `TensorStage.inverse`."""
        return y / self._weight + self._mean


class Rotate:
    """Changes to an orthonormal basis `[channels, channels]`, its vectors in the columns."""

    def __init__(self, basis: Tensor) -> None:
        self._basis = basis

    def forward(self, x: Tensor) -> Tensor:
        """See `TensorStage.forward`."""
        return x @ self._basis

    def inverse(self, y: Tensor) -> Tensor:
        """See `TensorStage.inverse`."""
        return y @ self._basis.T


def predict(history: Sequence[Tensor], predictor: Tensor | None) -> Tensor | float:
    """Prediction of z from the z of the layers before, the last one first; as many as the predictor takes."""
    if predictor is None:
        return 0.0
    reach, rows = 0, 0
    while rows < len(predictor):
        rows += history[reach].shape[1]
        reach += 1
    prediction: Tensor = np.concatenate(history[:reach], axis=1) @ predictor
    return prediction


def random_basis(channels: int, seed: int) -> Tensor:
    """An orthonormal basis drawn at random: what a KLT must beat."""
    gaussian = np.random.default_rng(seed).standard_normal((channels, channels))
    basis, _ = np.linalg.qr(gaussian)
    return basis.astype(np.float32)
