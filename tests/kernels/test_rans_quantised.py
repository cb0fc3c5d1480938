"""Quantising into blocks and back: every backend gives the reference's bits, and the values are what was promised."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from kvquilt_kernels import Kernels
from kvquilt_kernels.entropy import RealType
from tests.kernels.blocks import BACKENDS, REFERENCE, Sample, backends, sample, values_for

LARGEST = np.finfo(np.float32).max
SMALLEST = np.finfo(np.float32).smallest_subnormal
TYPES: tuple[RealType, ...] = ("float32", "bfloat16")
ALPHABETS = [2, 4, 6, 8, 16, 18, 64, 66, 256]


def check_parity(content: Sample, values: NDArray[np.float32], step: float) -> NDArray[np.int32]:
    """All backends encode and decode alike; returns the quantised values."""
    tables, ids = content.tables, content.table_ids
    block, escapes = REFERENCE.quantise_encode(values, step, tables, ids)
    quanta = REFERENCE.decode_quantised(block, escapes, *values.shape, tables, ids)
    reals = {
        dtype: REFERENCE.decode_dequantise(block, escapes, *values.shape, step, tables, ids, dtype) for dtype in TYPES
    }
    for name, kernels in BACKENDS.items():
        own_block, own_escapes = kernels.quantise_encode(values, step, tables, ids)
        assert own_escapes.dtype == np.int32
        assert own_escapes.tolist() == escapes.tolist(), f"{name} escapes others"
        assert own_block.tobytes() == block.tobytes(), f"{name} writes another block"
        assert np.array_equal(kernels.decode_quantised(block, escapes, *values.shape, tables, ids), quanta), name
        for dtype in TYPES:
            decoded = kernels.decode_dequantise(block, escapes, *values.shape, step, tables, ids, dtype)
            assert decoded.dtype == (np.float32 if dtype == "float32" else np.uint16)
            assert decoded.tobytes() == reals[dtype].tobytes(), f"{name} decodes to other {dtype}"
    return quanta


def spread(values: list[float], tokens: int = 3, channels: int = 40) -> NDArray[np.float32]:
    return np.resize(np.array(values, np.float32), (tokens, channels))


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize(("tokens", "channels"), [(1, 1), (30, 45), (70, 128), (66, 192), (65, 256)])
def test_every_alphabet(alphabet: int, tokens: int, channels: int) -> None:
    content = sample(tokens, channels, alphabet, tables=64)
    values = values_for(content, 0.37)
    quanta = check_parity(content, values, 0.37)
    assert np.array_equal(quanta, np.rint(values * np.float32(1 / 0.37)))


@pytest.mark.parametrize("alphabet", [2, 16, 256])
def test_escapes_everywhere(alphabet: int) -> None:
    content = sample(70, 129, alphabet, kind="degenerate")
    values = np.full(content.shape, 1000.0, np.float32) * np.where(np.arange(129) % 2, 1, -1).astype(np.float32)
    assert np.array_equal(check_parity(content, values, 1.0), values)


@pytest.mark.parametrize(
    "values",
    [
        [0.0, -0.0],
        [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 7.5, -7.5, 6.5, -6.5],
        [np.nextafter(np.float32(7.5), np.float32(8)), np.nextafter(np.float32(7.5), np.float32(0))],
        [LARGEST, -LARGEST, 1.0],
        [SMALLEST, -SMALLEST, 1e-40, -1e-40],
        [2.0**30, -(2.0**30), 2.0**30 - 64, 2.0**31, 2.0**23 + 1, 2.0**22 + 0.5, 4194303.5, -4194303.5, 8388607.5],
        [np.inf, -np.inf, 3.0],
    ],
)
def test_extremes(values: list[float]) -> None:
    content = sample(3, 40, 16)
    quanta = check_parity(content, spread(values), 1.0)
    expected = np.clip(np.rint(spread(values).astype(np.float64)), -(2**30), 2**30)
    assert np.array_equal(quanta, expected)


def test_a_nan_is_quantised_to_the_lower_limit() -> None:
    quanta = check_parity(sample(3, 40, 16), spread([np.nan, 1.0]), 1.0)
    assert quanta[0, :2].tolist() == [-(2**30), 1]


@pytest.mark.parametrize("step", [1e-30, 1e-6, 1 / 3, 1.0, 3.7e5, 1e30, 1.2e-38, 2e37, math.pi])
def test_steps_of_any_size(step: float) -> None:
    content = sample(66, 130, 16)
    check_parity(content, values_for(content, step), step)
    check_parity(content, values_for(content, 1.0), step)


def test_products_beyond_float32_are_infinite_and_subnormal_ones_are_kept() -> None:
    content = sample(3, 40, 16)
    block, escapes = REFERENCE.quantise_encode(spread([3e38, -3e38, 1e38]), 1e37, content.tables, content.table_ids)
    for kernels in BACKENDS.values():
        huge = kernels.decode_dequantise(block, escapes, 3, 40, 3e37, content.tables, content.table_ids, "float32")
        assert np.isposinf(huge[0, 0])
        assert np.isneginf(huge[0, 1])
    tiny = spread([1.2e-38, 2.4e-38])
    check_parity(content, tiny, 1.2e-38)
    check_parity(content, tiny, 6e-39)


@settings(deadline=None, max_examples=150)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
        elements=st.one_of(
            st.floats(-20, 20, width=32), st.floats(width=32, allow_nan=False, allow_infinity=False), st.just(0.5)
        ),
    ),
    alphabet=st.sampled_from(ALPHABETS),
    step=st.floats(1e-3, 1e3),
)
def test_any_values(values: NDArray[np.float32], alphabet: int, step: float) -> None:
    check_parity(sample(*values.shape, alphabet), values, step)


@backends
def test_the_error_is_at_most_half_a_step(kernels: Kernels) -> None:
    content = sample(66, 64, 16)
    values = values_for(content, 0.25)
    block, escapes = kernels.quantise_encode(values, 0.25, content.tables, content.table_ids)
    decoded = kernels.decode_dequantise(block, escapes, 66, 64, 0.25, content.tables, content.table_ids, "float32")
    assert float(np.abs(decoded - values).max()) <= 0.125


@backends
def test_bfloat16_rounds_to_nearest_even(kernels: Kernels) -> None:
    content = sample(3, 40, 4)
    values = spread([257, 258, 259, 513, 514, 515, 516, 517, 518, 519])
    block, escapes = kernels.quantise_encode(values, 1.0, content.tables, content.table_ids)
    bits = kernels.decode_dequantise(block, escapes, 3, 40, 1.0, content.tables, content.table_ids, "bfloat16")
    rounded = (bits[0, :10].astype(np.uint32) << 16).view(np.float32)
    assert rounded.tolist() == [256, 258, 260, 512, 512, 516, 516, 516, 520, 520]


@backends
def test_a_wrong_number_of_escapes_is_refused(kernels: Kernels) -> None:
    content = sample(20, 40, 16)
    values = values_for(content, 0.3)
    tables, ids = content.tables, content.table_ids
    block, escapes = kernels.quantise_encode(values, 0.3, tables, ids)
    assert escapes.size > 10
    for wrong in (escapes[:-1], escapes[:0], np.append(escapes, np.int32(9)), np.repeat(escapes, 2)):
        with pytest.raises(ValueError, match="escapes"):
            kernels.decode_quantised(block, wrong, 20, 40, tables, ids)
        for dtype in TYPES:
            with pytest.raises(ValueError, match="escapes"):
                kernels.decode_dequantise(block, wrong, 20, 40, 0.3, tables, ids, dtype)


@backends
@pytest.mark.parametrize("escape", [0, 7, -7, 2**30 + 1, -(2**30) - 1, 2**31 - 1, -(2**31)])
def test_an_escape_that_needs_none_or_is_beyond_the_limit_is_refused(kernels: Kernels, escape: int) -> None:
    content = sample(3, 40, 16)
    tables, ids = content.tables, content.table_ids
    block, escapes = kernels.quantise_encode(spread([100.0, 1.0]), 1.0, tables, ids)
    escapes[1] = escape
    with pytest.raises(ValueError, match="escapes"):
        kernels.decode_quantised(block, escapes, 3, 40, tables, ids)


@backends
def test_odd_alphabets_have_no_escape(kernels: Kernels) -> None:
    content = sample(3, 40, 15)
    block = content.encode(kernels)
    none = np.zeros(0, np.int32)
    with pytest.raises(ValueError, match="even alphabet"):
        kernels.quantise_encode(spread([0.0]), 1.0, content.tables, content.table_ids)
    with pytest.raises(ValueError, match="even alphabet"):
        kernels.decode_quantised(block, none, 3, 40, content.tables, content.table_ids)


@backends
@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e39, 1e-39, 1e-60, 5e-324])
def test_steps_that_float32_cannot_hold_are_refused(kernels: Kernels, step: float) -> None:
    content = sample(3, 40, 16)
    tables, ids = content.tables, content.table_ids
    block, escapes = kernels.quantise_encode(spread([0.0]), 1.0, tables, ids)
    with pytest.raises(ValueError, match="positive step"):
        kernels.quantise_encode(spread([0.0]), step, tables, ids)
    with pytest.raises(ValueError, match="positive step"):
        kernels.decode_dequantise(block, escapes, 3, 40, step, tables, ids, "float32")


@backends
def test_arguments_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    content = sample(3, 40, 16, contexts=2)
    tables, ids = content.tables, content.table_ids[:1]
    block, escapes = kernels.quantise_encode(spread([0.0]), 1.0, tables, ids)
    with pytest.raises(ValueError, match="expected table ids"):
        kernels.quantise_encode(spread([0.0]), 1.0, tables, content.table_ids)
    with pytest.raises(ValueError, match="expected table ids"):
        kernels.decode_quantised(block, escapes, 3, 40, tables, content.table_ids)
    with pytest.raises(ValueError, match="bfloat16"):
        kernels.decode_dequantise(block, escapes, 3, 40, 1.0, tables, ids, "float16")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.quantise_encode(spread([0.0]).astype(np.float64), 1.0, tables, ids)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.decode_quantised(block, escapes.astype(np.int64), 3, 40, tables, ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_blocks_are_refused_by_all_backends_or_read_alike(seed: int) -> None:
    content = sample(70, 64, 16)
    tables, ids = content.tables, content.table_ids
    block, escapes = REFERENCE.quantise_encode(values_for(content, 0.3), 0.3, tables, ids)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        damaged = block.copy()
        damaged[rng.integers(16, block.size)] ^= 1 << rng.integers(8)
        found: set[bytes | None] = set()
        for kernels in BACKENDS.values():
            try:
                found.add(kernels.decode_quantised(damaged, escapes, 70, 64, tables, ids).tobytes())
            except ValueError:
                found.add(None)
        assert len(found) == 1
