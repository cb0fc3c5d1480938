"""Frequency tables: what is one, and how weights become one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from kvquilt_kernels.entropy import lanes_for
from kvquilt_kernels.types import FrequencyTables, frequencies_from_weights

SOUND = np.array([[2047, 1], [1024, 1024]], np.uint16)


def test_tables_know_their_size_and_keep_a_copy_that_cannot_change() -> None:
    given_frequencies = SOUND.copy()
    tables = FrequencyTables(given_frequencies)
    assert (tables.count, tables.alphabet) == (2, 2)
    given_frequencies[0] = 0
    assert np.array_equal(tables.frequencies, SOUND)
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0, 0] = 1


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        (SOUND.astype(np.int64), "expected uint16"),
        (SOUND[0], "expected uint16 frequencies"),
        (SOUND[None], "expected uint16 frequencies"),
        (SOUND[:0], "1 to 64 tables"),
        (np.full((65, 2), 1024, np.uint16), "1 to 64 tables"),
        (np.full((1, 1), 2048, np.uint16), "2 to 256 symbols"),
        (np.full((1, 257), 7, np.uint16), "2 to 256 symbols"),
        (np.array([[2048, 0]], np.uint16), "at least 1"),
        (np.array([[2047, 2]], np.uint16), "sum of 2049"),
        (np.array([[1024, 1024], [1, 1]], np.uint16), "sum of 2"),
        (np.array([[65535, 2049]], np.uint16), "sum of 67584"),
    ],
)
def test_what_is_no_table_is_refused(frequencies: NDArray[np.uint16], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrequencyTables(frequencies)


@pytest.mark.parametrize(
    ("weights", "frequencies"),
    [
        ([1, 1], [1024, 1024]),
        ([0, 0], [1024, 1024]),
        ([0, 0, 0], [684, 682, 682]),
        ([0, 1], [1, 2047]),
        ([3, 1], [1536, 512]),
        ([1, 3, 3], [293, 878, 877]),
        ([1e-300, 1e-300], [1024, 1024]),
    ],
)
def test_frequencies_of_known_weights(weights: list[float], frequencies: list[int]) -> None:
    assert frequencies_from_weights(np.array(weights, np.float64)).tolist() == frequencies


@settings(deadline=None)
@given(
    weights=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(2, 256)),
        elements=st.floats(0, 1e200, allow_nan=False),
    )
)
def test_any_weights_give_tables(weights: NDArray[np.float64]) -> None:
    frequencies = frequencies_from_weights(weights)
    assert FrequencyTables(frequencies).alphabet == weights.shape[1]
    assert np.array_equal(frequencies_from_weights(weights[0]), frequencies[0]), "rows do not depend on each other"


@pytest.mark.parametrize(
    "weights", [[-1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0], [1e308, 1e308], [1.0], np.ones(257).tolist()]
)
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        frequencies_from_weights(np.array(weights))


@pytest.mark.parametrize(
    ("tokens", "channels", "lanes"),
    [
        (1, 1, 32),
        (64, 1024, 32),
        (65, 1024, 128),
        (65, 384, 128),
        (65, 192, 64),
        (65, 64, 64),
        (65, 96, 32),
        (65, 1, 32),
        (4096, 200, 32),
    ],
)
def test_the_rule_for_lanes(tokens: int, channels: int, lanes: int) -> None:
    assert lanes_for(tokens, channels) == lanes
