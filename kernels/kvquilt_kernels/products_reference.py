"""Matrix products in NumPy: the readable specification."""

from dataclasses import dataclass

import numpy as np

from kvquilt_kernels.products import Floats, PreparedMatrix, check_matrix, check_product


@dataclass(frozen=True, slots=True, eq=False)
class RoundedMatrix:
    """A right-hand matrix whose numbers are bfloat16's, kept in float32."""

    values: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """See `PreparedMatrix.shape`."""
        rows, columns = self.values.shape
        return rows, columns


class ReferenceProducts:
    """NumPy backend; see `kvquilt_kernels.products.ProductKernels`."""

    def prepare_matrix(self, matrix: Floats) -> PreparedMatrix:
        """See `ProductKernels.prepare_matrix`."""
        check_matrix(matrix)
        return RoundedMatrix(rounded(matrix))

    def multiply(self, x: Floats, matrix: PreparedMatrix, added: Floats | None = None) -> Floats:
        """See `ProductKernels.multiply`."""
        if not isinstance(matrix, RoundedMatrix):
            raise TypeError(f"expected a matrix that this backend prepared; got {type(matrix).__name__}")
        check_product(x, matrix, added)
        with np.errstate(over="ignore", invalid="ignore"):  # Inf and NaN, as in C++
            product: Floats = rounded(x) @ matrix.values
            return product if added is None else product + added


def rounded(values: Floats) -> Floats:
    """The nearest bfloat16, ties to even, in float32; NaN stays NaN."""
    bits = values.view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(np.isnan(values), bits | np.uint32(0x400000), nearest & np.uint32(0xFFFF0000)).view(np.float32)
