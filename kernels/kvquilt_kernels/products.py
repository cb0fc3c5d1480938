"""The vocabulary of matrix products with a constant right-hand side, in bfloat16 with float32 sums."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class PreparedMatrix(Protocol):
    """A right-hand matrix as a backend takes it: opaque, immutable, usable from any thread."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that was prepared, `[k, n]`."""


class ProductKernels(Protocol):
    """Products whose inputs are rounded to bfloat16 (to nearest, ties to even) and summed in float32.

    Unlike all other kernels these are not the same to the bit everywhere: the order of the k sums of a result is the
    backend's and the CPU's. A result is within `(k + 2) * 2**-23` times the sum of the magnitudes of what was summed.
    Infinities and NaN go through as IEEE 754 has it; subnormal numbers may count as 0.
    """

    def prepare_matrix(self, matrix: Floats) -> PreparedMatrix:
        """Round and pack a matrix once, for many products with this backend.

        Args:
            matrix: `[k, n]`, both at least 1; C-contiguous.

        Raises:
            ValueError: another shape or layout.
            TypeError: another dtype.
        """

    def multiply(self, x: Floats, matrix: PreparedMatrix, added: Floats | None = None) -> Floats:
        """Return `added + x @ matrix`, `[m, n]`.

        Args:
            x: `[m, k]`, C-contiguous.
            matrix: what `prepare_matrix` of the same backend gave.
            added: `[m, n]`, or `[1, n]` for all rows, C-contiguous; not rounded.

        Raises:
            ValueError: shapes that do not fit together, or another layout.
            TypeError: another dtype, or a matrix of another backend.
        """


def check_matrix(matrix: Floats) -> None:
    """Raise what `prepare_matrix` raises."""
    _check_floats("matrix", matrix)
    if 0 in matrix.shape:
        raise ValueError(f"expected a matrix of at least one row and one column; got {list(matrix.shape)}")


def check_product(x: Floats, matrix: PreparedMatrix, added: Floats | None) -> None:
    """Raise what `multiply` raises of shapes, layouts and dtypes."""
    _check_floats("x", x)
    rows, columns = matrix.shape
    if x.shape[1] != rows:
        raise ValueError(f"expected x [m, {rows}] for a matrix {[rows, columns]}; got {list(x.shape)}")
    if added is None:
        return
    _check_floats("added", added)
    if added.shape not in ((len(x), columns), (1, columns)):
        raise ValueError(f"expected {[len(x), columns]} or {[1, columns]} to add; got {list(added.shape)}")


def _check_floats(name: str, array: Floats) -> None:
    if array.dtype != np.float32:
        raise TypeError(f"expected {name} of float32; got {array.dtype}")
    if array.ndim != 2 or not array.flags.c_contiguous:
        raise ValueError(f"expected {name} of two dimensions, C-contiguous; got {list(array.shape)} {array.strides}")
