"""The stages between a layer's tensors and the numbers that are quantised.

All work on float32 `[tokens, channels]` and return new arrays.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.types import Kernels

Tensor = NDArray[np.float32]


class Weigh:
    """Removes the mean and multiplies by a weight, both per channel: `weight * (x - mean)`."""

    def __init__(self, mean: Tensor, weight: Tensor) -> None:
        self._mean = mean
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """z of x."""
        return (x - self._mean) * self._weight


class Linear:
    """Multiplies by a matrix as `ProductKernels` do, in bfloat16, and adds a row: `x @ matrix + offset`.

    Args:
        kernels: backend.
        matrix: `[inputs, outputs]`.
        offset: `[outputs]`; None adds nothing.
    """

    def __init__(self, kernels: Kernels, matrix: Tensor, offset: Tensor | None = None) -> None:
        self._kernels = kernels
        self._matrix = kernels.prepare_matrix(np.ascontiguousarray(matrix))
        self._offset = None if offset is None else np.ascontiguousarray(offset)[None]

    @property
    def inputs(self) -> int:
        """Channels of what is multiplied."""
        return self._matrix.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        return self._kernels.multiply(x, self._matrix, self._offset)


def restore(kernels: Kernels, basis: Tensor, mean: Tensor, weight: Tensor) -> Linear:
    """x of y, for `y = Weigh(mean, weight)(x) @ basis` with an orthonormal basis: both undone in one product."""
    return Linear(kernels, basis.T / weight, mean)


def predict(history: Sequence[Tensor], predictor: Linear) -> Tensor:
    """Prediction of y from the y of the layers before, the last one first; as many as the predictor takes."""
    reach, rows = 0, 0
    while rows < predictor.inputs:
        rows += history[reach].shape[1]
        reach += 1
    return predictor(np.concatenate(history[:reach], axis=1) if reach > 1 else history[0])


def random_basis(channels: int, seed: int) -> Tensor:
    """An orthonormal basis drawn at random: what a KLT must beat."""
    gaussian = np.random.default_rng(seed).standard_normal((channels, channels))
    basis, _ = np.linalg.qr(gaussian)
    return basis.astype(np.float32)
