"""Matrix products in bfloat16: every backend and instruction set against float64, and what is not finite."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_kernels import Kernels
from kvquilt_kernels.products import Floats
from tests.kernels.blocks import BACKENDS, REFERENCE, backends

SIZES = st.integers(1, 9) | st.integers(1, 130)


def rounded(values: Floats) -> np.ndarray:
    """The nearest bfloat16, in float64: from another implementation than the reference's."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


def random_floats(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Magnitudes over a few octaves, and exact zeros."""
    values = rng.standard_normal((rows, columns)) * np.exp2(rng.integers(-8, 9, (rows, 1)))
    return np.where(rng.random((rows, columns)) < 0.05, 0, values).astype(np.float32)


def assert_within_bound(kernels: Kernels, x: Floats, matrix: Floats, added: Floats | None) -> None:
    product = kernels.multiply(x, kernels.prepare_matrix(matrix), added)
    first = np.zeros((1, 1)) if added is None else added.astype(np.float64)
    magnitudes = np.abs(first) + np.abs(rounded(x)) @ np.abs(rounded(matrix))
    error = np.abs(product - (first + rounded(x) @ rounded(matrix)))
    assert product.dtype == np.float32
    assert product.shape == (len(x), matrix.shape[1])
    assert (error <= magnitudes * (x.shape[1] + 2) * 2.0**-23).all()


@backends
@settings(max_examples=60, deadline=None)
@given(m=SIZES, k=SIZES, n=SIZES, added=st.sampled_from(["nothing", "row", "rows"]), seed=st.integers(0, 2**32 - 1))
def test_products_are_within_the_bound(kernels: Kernels, m: int, k: int, n: int, added: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = {"nothing": None, "row": random_floats(rng, 1, n), "rows": random_floats(rng, m, n)}[added]
    assert_within_bound(kernels, random_floats(rng, m, k), random_floats(rng, k, n), first)


@backends
@pytest.mark.parametrize("shape", [(256, 768, 384), (97, 1, 49), (1, 1025, 1), (0, 3, 5)])
def test_shapes_beyond_one_tile(kernels: Kernels, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(m)
    assert_within_bound(kernels, random_floats(rng, m, k), random_floats(rng, k, n), random_floats(rng, 1, n))


@backends
def test_inputs_are_rounded_half_to_even(kernels: Kernels) -> None:
    one = np.ones((1, 1), np.float32)
    ties = np.float32([[1 + 2**-8], [1 + 3 * 2**-8], [1 + 2**-8 + 2**-20], [-1 - 2**-8], [3.4e38]])
    expected = np.float32([[1], [1 + 2**-6], [1 + 2**-7], [-1], [np.inf]])
    np.testing.assert_array_equal(kernels.multiply(ties, kernels.prepare_matrix(one)), expected)
    np.testing.assert_array_equal(kernels.multiply(one, kernels.prepare_matrix(ties.T.copy())), expected.T)


@backends
def test_what_is_not_finite_goes_through(kernels: Kernels) -> None:
    x = np.float32([[np.inf, 1, 1], [np.nan, 1, 1], [np.inf, -np.inf, 1], [1, 1, 1]])
    matrix = np.float32([[1, 0, -1], [1, 1, 1], [0, 1, np.inf]])
    matrix[0, 1] = 0
    expected = np.float32([[np.inf, np.nan, np.nan], [np.nan] * 3, [np.nan, np.nan, np.nan], [2, 2, np.inf]])
    np.testing.assert_array_equal(kernels.multiply(x, kernels.prepare_matrix(matrix)), expected)
    payload = np.array([[0x7F800001]], np.uint32).view(np.float32)  # would round to Inf
    assert np.isnan(kernels.multiply(payload, kernels.prepare_matrix(np.ones((1, 1), np.float32)))).all()


@backends
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda kernels, good: kernels.prepare_matrix(good.astype(np.float64)), TypeError, "float32"),
        (lambda kernels, good: kernels.prepare_matrix(good[0]), ValueError, "two dimensions"),
        (lambda kernels, good: kernels.prepare_matrix(good.T), ValueError, "contiguous"),
        (lambda kernels, good: kernels.prepare_matrix(good[:0]), ValueError, "at least one row"),
        (lambda kernels, good: kernels.prepare_matrix(good[:, :0].copy()), ValueError, "at least one row"),
        (lambda kernels, good: product(kernels, good.astype(np.float16), None), TypeError, "x of float32"),
        (lambda kernels, good: product(kernels, good[:, :2].copy(), None), ValueError, r"x \[m, 3\]"),
        (lambda kernels, good: product(kernels, good[:, ::-1], None), ValueError, "contiguous"),
        (lambda kernels, good: product(kernels, good[0], None), ValueError, "two dimensions"),
        (lambda kernels, good: product(kernels, good, good[:2]), ValueError, "to add"),
        (lambda kernels, good: product(kernels, good, good[0]), ValueError, "two dimensions"),
        (lambda kernels, good: product(kernels, good, good.astype(np.float64)), TypeError, "added of float32"),
        (lambda kernels, good: kernels.multiply(good, good), TypeError, "this backend prepared"),
    ],
)
def test_bad_arguments(
    kernels: Kernels, call: Callable[[Kernels, Floats], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(kernels, np.ones((4, 3), np.float32))


def product(kernels: Kernels, x: Floats, added: Floats | None) -> Floats:
    return kernels.multiply(x, kernels.prepare_matrix(np.ones((3, 4), np.float32)), added)


def test_a_matrix_serves_its_own_backend_alone() -> None:
    other = next((kernels for name, kernels in BACKENDS.items() if name.startswith("native")), None)
    if other is None:
        pytest.skip("one backend")
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(TypeError, match="this backend"):
        REFERENCE.multiply(ones, other.prepare_matrix(ones))
    with pytest.raises(TypeError, match="this backend"):
        other.multiply(ones, REFERENCE.prepare_matrix(ones))
