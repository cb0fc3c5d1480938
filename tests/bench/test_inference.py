"""The statistics of soak and probes, against worked examples and against what they promise of random samples."""

from statistics import NormalDist

import numpy as np
import pytest

from inference import kolmogorov_smirnov_p, median_of, rank_sum_p, slope

RANDOM = np.random.default_rng(5)


def test_rank_sums_and_distances_agree_with_counting_all_pairs() -> None:
    a, b = RANDOM.integers(0, 12, 40).astype(float), RANDOM.integers(2, 14, 50).astype(float)
    u = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    _, counts = np.unique(np.concatenate([a, b]), return_counts=True)
    n = 90
    deviation = np.sqrt(40 * 50 / 12 * (n + 1 - sum(c**3 - c for c in counts) / (n * (n - 1))))
    assert rank_sum_p(a, b) == pytest.approx(2 * NormalDist().cdf(-abs(u - 1000) / deviation))
    assert rank_sum_p(a, b) == pytest.approx(rank_sum_p(b, a))
    # Smirnov's table: the limit's value at 1.36 is .05, at 1.63 .01 (one sample is shifted by so much of its length).
    for scaled, level in ((1.36, 0.05), (1.63, 0.01)):
        n = 20_000
        shift = int(scaled * np.sqrt(2 / n) * n)
        assert kolmogorov_smirnov_p(np.arange(n) * 1.0, np.arange(n) + float(shift)) == pytest.approx(level, rel=0.05)


def test_samples_of_one_distribution_are_seldom_told_apart_and_shifted_ones_nearly_always() -> None:
    for test in (rank_sum_p, kolmogorov_smirnov_p):
        same = [test(RANDOM.lognormal(size=200), RANDOM.lognormal(size=200)) for _ in range(300)]
        assert np.mean(np.array(same) < 0.05) < 0.10
        assert np.mean(same) == pytest.approx(0.5, abs=0.1)
        assert all(test(RANDOM.normal(size=300), RANDOM.normal(0.6, size=300)) < 0.01 for _ in range(20))


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    found = [median_of(RANDOM.exponential(size=150) - RANDOM.exponential(size=150) + 0.2, 0.05) for _ in range(400)]
    held = np.mean([one.low <= 0.2 <= one.high for one in found])
    assert 0.85 < held < 0.97
    same = median_of(RANDOM.normal(0, 1, 20_000), 0.01)
    assert same.within(0.05)
    assert not same.within(0.001)


def test_a_slope_is_found_in_noise_and_outliers_do_not_move_it() -> None:
    steps = np.arange(80)
    noisy = 0.5 * steps + RANDOM.normal(0, 3, 80)
    noisy[::10] += 500
    found = slope(noisy, 0.95)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.2
    assert slope(RANDOM.normal(0, 3, 80), 0.95).within(0.1)
    with pytest.raises(ValueError, match="at least 10"):
        slope(np.arange(5.0), 0.95)
