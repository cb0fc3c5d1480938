"""Quantising rows to int8: every backend gives the reference's bytes, and the error stays within half a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from kvquilt_kernels import Kernels, available
from kvquilt_kernels.reference import ReferenceKernels

BACKENDS = list(available().values())
REFERENCE = ReferenceKernels()
LARGEST = np.finfo(np.float32).max
SMALLEST = np.finfo(np.float32).smallest_subnormal

backends = pytest.mark.parametrize("kernels", BACKENDS, ids=lambda kernels: kernels.name)

rows_of_floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def scale_values(scales: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (scales.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def degenerate(name: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return {
        "zeros": np.zeros((3, 8), np.float32),
        "negative zeros": np.full((3, 8), -0.0, np.float32),
        "constant": np.full((3, 8), -3.25, np.float32),
        "denormals": (rng.integers(1, 1 << 20, (4, 16)).astype(np.uint32)).view(np.float32),
        "smallest": np.full((1, 5), SMALLEST, np.float32),
        "largest": np.array([[LARGEST, -LARGEST, LARGEST / 2, 0]], np.float32),
        "wide range": np.array([[1e38, 1e-38, -1e30, 1, -0.0, 1e-45]], np.float32),
        "one element": np.array([[0.3]], np.float32),
        "a zero row between others": np.array([[1, 2], [0, 0], [-4, 8]], np.float32),
        "ties": np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32),
        "no rows": np.zeros((0, 8), np.float32),
        "no columns": np.zeros((4, 0), np.float32),
    }[name]


CASES = [
    "zeros",
    "negative zeros",
    "constant",
    "denormals",
    "smallest",
    "largest",
    "wide range",
    "one element",
    "a zero row between others",
    "ties",
    "no rows",
    "no columns",
]


@backends
@pytest.mark.parametrize("case", CASES)
def test_every_backend_gives_the_bytes_of_the_reference_for(kernels: Kernels, case: str) -> None:
    values = degenerate(case)
    codes, scales = kernels.quantise_rows(values)
    expected_codes, expected_scales = REFERENCE.quantise_rows(values)
    assert codes.tobytes() == expected_codes.tobytes()
    assert scales.tobytes() == expected_scales.tobytes()
    assert codes.shape == values.shape
    assert codes.dtype == np.int8
    assert scales.shape == values.shape[:1]
    restored = kernels.dequantise_rows(codes, scales)
    assert restored.dtype == np.float32
    assert restored.tobytes() == REFERENCE.dequantise_rows(codes, scales).tobytes()


@backends
def test_zeros_come_back_as_zeros(kernels: Kernels) -> None:
    codes, scales = kernels.quantise_rows(degenerate("negative zeros"))
    assert not codes.any()
    assert not scales.any(), "the scale of an empty range is 0"
    assert not kernels.dequantise_rows(codes, scales).any()


@backends
def test_ties_round_to_even(kernels: Kernels) -> None:
    codes, scales = kernels.quantise_rows(degenerate("ties"))
    assert scale_values(scales).tolist() == [1.0]
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


@settings(deadline=None, max_examples=200)
@given(values=rows_of_floats)
def test_backends_agree_on_any_finite_rows(values: NDArray[np.float32]) -> None:
    results = [kernels.quantise_rows(values) for kernels in BACKENDS]
    assert len({(codes.tobytes(), scales.tobytes()) for codes, scales in results}) == 1, "backends differ"
    restored = {kernels.dequantise_rows(*results[0]).tobytes() for kernels in BACKENDS}
    assert len(restored) == 1, "backends differ"


@settings(deadline=None, max_examples=200)
@given(values=rows_of_floats)
def test_the_scale_is_the_smallest_bfloat16_that_covers_the_row(values: NDArray[np.float32]) -> None:
    codes, scales = BACKENDS[0].quantise_rows(values)
    needed = (np.abs(values).max(axis=1) / np.float32(127)).astype(np.float64)
    assert (scale_values(scales) >= needed).all(), "a smaller scale would need codes above 127"
    below = scale_values(np.maximum(scales, 1) - 1)
    assert ((below < needed) | (scales == 0)).all(), "a smaller bfloat16 would have covered the row"
    assert int(np.abs(codes.astype(int)).max()) <= 127


@settings(deadline=None, max_examples=200)
@given(values=rows_of_floats)
def test_the_error_is_at_most_half_a_step(values: NDArray[np.float32]) -> None:
    codes, scales = BACKENDS[0].quantise_rows(values)
    steps = scale_values(scales)[:, None]
    error = np.abs(codes.astype(np.float64) * steps - values.astype(np.float64))
    # The quotient is rounded to float32 before it is rounded to a code; and of a row whose maximum / 127 is below
    # the smallest float32 nothing is left: its scale is 0.
    tolerance = steps * (0.5 + 127 * 2.0**-24) + 127 * float(SMALLEST) * (steps == 0)
    assert (error <= tolerance).all()


@settings(deadline=None)
@given(
    codes=hnp.arrays(np.int8, (3, 5), elements=st.integers(-128, 127)),
    scales=hnp.arrays(np.uint16, (3,), elements=st.integers(0, 0x7F7F)),
)
def test_backends_agree_on_any_codes_and_finite_scales(codes: NDArray[np.int8], scales: NDArray[np.uint16]) -> None:
    restored = {kernels.dequantise_rows(codes, scales).tobytes() for kernels in BACKENDS}
    assert len(restored) == 1, "backends differ"


@backends
@pytest.mark.parametrize("scales", [0, 1, 3, 5])
def test_another_number_of_scales_than_rows_is_refused(kernels: Kernels, scales: int) -> None:
    with pytest.raises(ValueError, match="one scale a row"):
        kernels.dequantise_rows(np.zeros((4, 8), np.int8), np.zeros(scales, np.uint16))
