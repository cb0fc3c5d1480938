"""What a cost says follows from what was measured, and says least where that leaves it open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_rpc.cost import Cost

SIZES = st.integers(1, 1 << 16)
SECONDS = st.floats(1e-6, 1e3)


def measured(*pairs):
    cost = Cost()
    for tokens, seconds in pairs:
        cost.measured(seconds, tokens)
    return cost


def test_nothing_is_known_before_the_first_measurement():
    cost = measured((0, 5.0))
    assert cost.seconds(10) is None
    assert cost.seconds(0) == 0.0


@given(st.floats(0, 10), st.floats(1e-5, 1), st.lists(SIZES, min_size=2, max_size=12))
def test_a_line_is_found_where_sizes_are_apart(fixed, each, sizes):
    sizes = [1000, *sizes, 4000]
    cost = measured(*((size, fixed + each * size) for size in sizes))
    for size in (1000, 2500, 4000):
        assert cost.seconds(size) == pytest.approx(fixed + each * size, rel=1e-3)


@given(SIZES, SECONDS, SIZES)
def test_one_measurement_bounds_all_others_from_below_by_what_it_leaves_open(size, seconds, other):
    cost = measured((size, seconds))
    assert cost.seconds(size) == pytest.approx(seconds)
    assert cost.seconds(other) == pytest.approx(seconds * min(1, other / size))


@given(st.lists(st.tuples(SIZES, SECONDS), min_size=1, max_size=30), SIZES, SIZES)
def test_more_tokens_never_cost_less_and_nothing_costs_less_than_nothing(pairs, one, other):
    cost = measured(*pairs)
    less, more = sorted((one, other))
    assert -1e-9 <= cost.seconds(less) <= cost.seconds(more) * (1 + 1e-9) + 1e-9


def test_of_small_things_no_slope_is_told_that_reaches_large_ones():
    """24 and 60 tokens, on a busy machine: a line through them says 8 seconds for 2,000."""
    cost = measured((24, 0.05), (60, 0.2))
    assert cost.seconds(2000) == cost.seconds(120) < 0.6


def test_what_is_not_measured_because_of_old_measurements_is_tried_again_at_last():
    cost = measured((2000, 60.0))
    refusals = 0
    while cost.seconds(2000) > 20:
        cost.fade()
        refusals += 1
    assert 30 < refusals < 100
    cost.measured(2.0, 2000)
    for _ in range(20):
        cost.measured(2.0, 2000)
    assert cost.seconds(2000) == pytest.approx(2, rel=0.1)
