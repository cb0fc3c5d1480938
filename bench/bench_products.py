"""Matrix products of decoding with a profile: the kernels beside NumPy's float32 product.

Billions of multiplications and additions a second, on one thread. Writes results/products.json.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from kvquilt_kernels.native import NativeKernels, instruction_sets
from report import publish
from timing import median_seconds

TOKENS, RUNS = 256, 41
SHAPES = ((384, 384), (768, 384), (1024, 1024), (2048, 1024))


def speeds(matrix: NDArray[np.float32]) -> dict[str, Any]:
    rows, columns = matrix.shape
    x = np.random.default_rng(2).standard_normal((TOKENS, rows)).astype(np.float32)
    gflop = 2 * TOKENS * rows * columns / 1e9
    row: dict[str, Any] = {"case": f"[{TOKENS}, {rows}] @ [{rows}, {columns}]"}
    row["numpy_float32_gflop_s"] = gflop / median_seconds(lambda: x @ matrix, RUNS)
    for isa in instruction_sets():
        kernels = NativeKernels(isa)
        prepared = kernels.prepare_matrix(matrix)
        row[f"{isa}_gflop_s"] = gflop / median_seconds(lambda k=kernels, p=prepared: k.multiply(x, p), RUNS)
    return row


def main() -> None:
    rng = np.random.default_rng(1)
    with threadpool_limits(1, user_api="blas"):
        rows = [speeds(rng.standard_normal(shape).astype(np.float32)) for shape in SHAPES]
    publish("products", {"tokens": TOKENS, "runs": f"median of {RUNS}, one thread"}, rows)


if __name__ == "__main__":
    main()
