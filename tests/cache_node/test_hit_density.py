"""The default policy: what it learns of ages, and whom it chooses, against sums and scans written out."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_cache_node.eviction import Entry, Key
from kvquilt_cache_node.eviction.hit_density import HitDensity, Worth, by_hits, by_savings
from kvquilt_cache_node.eviction.reuse import AgeBins, Reuse, smoothed

BINS = AgeBins(2560)
ages = st.lists(st.floats(0, 1e6), max_size=20)


@given(ages=ages)
@settings(deadline=None)
def test_time_watched_is_the_time_that_each_object_was_in_each_bin(ages: list[float]) -> None:
    watched = BINS.watched(np.array(ages))
    for place, (start, width) in enumerate(zip(BINS.starts, BINS.widths, strict=True)):
        expected = sum(min(max(age - start, 0), width) for age in ages)
        assert watched[place] == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert all(BINS.bin_of(age) == max(b for b, start in enumerate(BINS.starts) if start <= age) for age in ages)


def best_rate(rates: list[float], widths: list[float], begin: int) -> float:
    """Gittins' index with every stopping age tried: uses expected per time, of an object that keeps its age's rate."""
    alive, uses, time, best = 1.0, 0.0, 0.0, 0.0
    for rate, width in zip(rates[begin:], widths[begin:], strict=True):
        used = -math.expm1(-rate * width)
        uses += alive * used
        time += alive * used / rate
        alive *= 1 - used
        best = max(best, uses / time)
    return best


@given(used=st.lists(st.floats(0, 30_000), min_size=1, max_size=40), lost=ages, living=ages)
@settings(max_examples=40, deadline=None)
def test_the_index_is_the_best_over_all_ages_to_stop_at(
    used: list[float], lost: list[float], living: list[float]
) -> None:
    reuse = Reuse(BINS, 1.0)
    for age in used:
        reuse.used(age)
    for age in lost:
        reuse.lost(age)
    reuse.fade()
    now = np.array(living)
    totals = reuse.totals(now)
    reuse.learn(now, *totals)
    # The only kind: its own rate is the prior too.
    uses, watched = smoothed(reuse.uses), smoothed(reuse.watched + BINS.watched(now))
    weight = 20 * BINS.unit
    rates = ((uses + weight * (uses + 1e-9) / (watched + BINS.unit)) / (watched + weight)).tolist()
    expected = [best_rate(rates, BINS.widths.tolist(), begin) for begin in range(len(rates))]
    assert reuse.index == pytest.approx(expected, rel=1e-4)


class Watched(HitDensity):
    """Compares each choice with a scan of all objects that are there."""

    def evict(self) -> Key:
        kinds = {record.kind.number: record.kind for record in self._live.values()}
        oldest = [
            min((record.used, key) for key, record in self._live.items() if record.kind is kind)
            for kind in kinds.values()
        ]
        expected = {key: (self._density(self._live[key]), used) for used, key in oldest}
        chosen = super().evict()
        assert chosen == min(expected, key=lambda key: expected[key])
        return chosen


@pytest.mark.parametrize("worth", [by_hits, by_savings])
def test_the_oldest_of_the_kind_with_the_least_density_goes(worth: Worth) -> None:
    random = Random(5)
    policy = Watched(2000, worth)
    held: dict[Key, int] = {}
    for step in range(2000):
        key = int(random.paretovariate(0.5)) % 997 if step % 2 else step + 1000
        size, cost = (10, 40, 170)[key % 3], (0.0, 0.5, 3.0, 0.01)[key % 4]
        if key in held:
            policy.use(key)
            continue
        while sum(held.values()) + size > 2000:
            del held[policy.evict()]
        policy.insert(key, Entry(size, cost))
        held[key] = size
    assert held.keys() == policy._live.keys()
    assert policy._ghosts.nbytes <= 8 * 2000
    assert not policy._ghosts.items() or all(key not in policy._ghosts for key in held)


def test_what_is_used_again_and_again_outlives_a_scan() -> None:
    policy = HitDensity(100)
    hits = 0
    for step in range(10_000):
        key = step % 50 if step % 4 == 0 else 1000 + step  # 50 objects come round; three in four never come back
        if key in policy:
            hits += step >= 5_000
            policy.use(key)
            continue
        if len(policy) == 100:
            policy.evict()
        policy.insert(key, Entry(1))
    # Least recently used would find none of them: 200 objects come in between two uses of one.
    assert hits > 0.8 * 5_000 / 4


def test_large_objects_go_before_small_ones_that_are_used_alike() -> None:
    random = Random(3)
    policy = HitDensity(10_000)
    held: dict[Key, int] = {}
    for _ in range(4000):
        key = random.randrange(400)
        size = 10 if key % 2 else 160
        if key in held:
            policy.use(key)
            continue
        while sum(held.values()) + size > 10_000:
            del held[policy.evict()]
        policy.insert(key, Entry(size))
        held[key] = size
    small = sum(size == 10 for size in held.values())
    assert small > 190, "nearly all 200 small ones, which take a fifth of the room"
