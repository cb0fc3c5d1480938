"""Matrix products in C++ (`kernels/native/products*.cpp`)."""

import numpy as np

from kvquilt_kernels import _native
from kvquilt_kernels.products import Floats, PreparedMatrix, check_matrix, check_product


class NativeProducts:
    """C++ backend; see `kvquilt_kernels.products.ProductKernels`.

    Attributes:
        isa: one of `rans_native.instruction_sets()`; AVX-512 without bfloat16 instructions runs what AVX2 does.
    """

    isa: str

    def prepare_matrix(self, matrix: Floats) -> PreparedMatrix:
        """See `ProductKernels.prepare_matrix`."""
        check_matrix(matrix)
        return _native.Matrix(matrix)

    def multiply(self, x: Floats, matrix: PreparedMatrix, added: Floats | None = None) -> Floats:
        """See `ProductKernels.multiply`."""
        if not isinstance(matrix, _native.Matrix):
            raise TypeError(f"expected a matrix that this backend prepared; got {type(matrix).__name__}")
        check_product(x, matrix, added)
        out = np.empty((len(x), matrix.shape[1]), np.float32)
        _native.multiply(self.isa, x, matrix, added, out)
        return out
