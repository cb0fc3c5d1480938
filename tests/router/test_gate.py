"""The gate: what is chosen from what was measured, and what is refused."""

import math
import random
from statistics import NormalDist

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate.file import check, dump, load
from kvquilt_router.evaluation.statistics import geometric_mean, ratio, upper_bound
from kvquilt_router.gate import choose
from kvquilt_router.gate.choose import order
from kvquilt_router.gate.measure import Grid, measure_gate

MODEL, PROFILE = "ab" * 32, "cd" * 32


def point(policy="question-deviation", ratio=0.1, context="warm", upper=0.2, cost=0.2, level="high"):
    return GatePoint(policy, ratio, context, level, 8, upper / 10, upper, 0.9, cost)


def gate_of(*points):
    return Gate(MODEL, PROFILE, 16, 0.95, 0.9, "texts", points)


GATE = gate_of(
    point("none", 0.0, "exact", 0.001, 0.05),
    point("none", 0.0, "warm", 0.9, 0.06),
    point("none", 0.0, "base", 2.0, 0.06),
    point(ratio=0.1, context="warm", upper=0.2, cost=0.2),
    point(ratio=0.1, context="base", upper=0.6, cost=0.2),
    point(ratio=0.3, context="warm", upper=0.1, cost=0.4),
    point(ratio=0.3, context="base", upper=0.25, cost=0.4),
)


def test_a_policy_that_learns_from_requests_cannot_be_measured():
    with pytest.raises(BadRequestError, match="'anchors' learns from requests"):
        measure_gate(None, None, None, Grid(ways=(("none", 0.0), ("anchors", 0.1))))


def test_the_cheapest_point_within_the_limit_is_taken():
    decision = choose(GATE, "high", {"exact", "warm"}, 1.0)
    assert (decision.policy, decision.recompute_ratio, decision.predicted_kl) == ("none", 0.0, 0.9)
    decision = choose(GATE, "high", {"exact", "warm"}, 0.3)
    assert (decision.policy, decision.recompute_ratio, decision.predicted_kl) == ("question-deviation", 0.1, 0.2)
    assert not decision.refusal


def test_the_worst_context_of_the_prompt_counts():
    decision = choose(GATE, "high", {"warm", "base"}, 0.3)
    assert (decision.recompute_ratio, decision.predicted_kl) == (0.3, 0.25)
    assert [p.context for p in decision.points] == ["base", "warm"]


@pytest.mark.parametrize(
    ("gate", "level", "contexts", "limit", "options", "refusal"),
    [
        (None, "high", {"warm"}, 9.0, {}, "no_gate"),
        (GATE, "high", {"warm"}, 0.05, {}, "above_limit"),
        (GATE, "medium", {"warm"}, 9.0, {}, "not_measured"),
        (GATE, "high", {"warm", "pair"}, 9.0, {}, "not_measured"),
        (GATE, "high", {"warm"}, 9.0, {"policy": "random"}, "not_measured"),
        (GATE, "high", {"warm"}, 9.0, {"policy": "question-deviation", "recompute_ratio": 0.05}, "not_measured"),
        (GATE, "high", {"warm"}, 0.3, {"recompute_ratio": 0.05}, "above_limit"),
        (GATE, "high", {"warm"}, 0.3, {"withdrawn": {p.key for p in GATE.points}}, "withdrawn"),
    ],
)
def test_what_is_not_proven_is_refused_with_the_reason(gate, level, contexts, limit, options, refusal):
    assert choose(gate, level, contexts, limit, **options).refusal == refusal


def test_exact_chunks_need_no_blend_and_the_codec_alone_is_predicted():
    decision = choose(GATE, "high", {"exact"}, 1e-9)
    assert (decision.refusal, decision.predicted_kl) == ("", 0.001)
    assert choose(None, "high", {"exact"}, 1e-9) == choose(None, "high", set(), 1.0)
    assert choose(None, "high", set(), 1.0).predicted_kl is None


def test_a_ratio_between_measured_ones_counts_as_the_one_below():
    decision = choose(GATE, "high", {"warm"}, 1.0, policy="question-deviation", recompute_ratio=0.25)
    assert (decision.recompute_ratio, decision.predicted_kl) == (0.25, 0.2)


def test_lossless_counts_as_the_finest_measured_level():
    medium = [replace_point(p, level="medium", factor=1.5) for p in GATE.points]
    both = gate_of(*GATE.points, *medium)
    assert choose(both, "lossless", {"warm"}, 0.3).predicted_kl == 0.2
    assert choose(both, "medium", {"warm"}, 0.31).predicted_kl == pytest.approx(0.3)


def replace_point(old, level, factor):
    return msgspec.structs.replace(old, level=level, kl_geomean=old.kl_geomean * factor, kl_upper=old.kl_upper * factor)


@given(st.floats(0, 3), st.sets(st.sampled_from(["exact", "pair", "warm", "base"])))
def test_whatever_is_chosen_is_within_the_limit_and_was_measured(limit, contexts):
    decision = choose(GATE, "high", contexts, limit)
    if contexts - {"exact"} and not decision.refusal:
        assert decision.predicted_kl is not None
        assert decision.predicted_kl <= limit
        assert {p.context for p in decision.points} == contexts - {"exact"}
        assert set(decision.points) <= set(GATE.points)


def test_contexts_are_ordered_by_what_was_measured():
    default = ("exact", "pair", "warm", "base")
    assert order(None, "high", default) == default
    assert order(GATE, "high", default) == ("exact", "warm", "base", "pair"), "what was not measured cannot be used"
    assert order(GATE, "medium", default) == default, "nothing was measured"
    swapped = gate_of(*GATE.points, point("none", 0.0, "pair", 1.5, 0.05))
    assert order(swapped, "high", default) == ("exact", "warm", "pair", "base")


def test_a_file_comes_back_and_damaged_ones_are_refused():
    assert load(dump(GATE)) == GATE
    good = msgspec.json.decode(dump(GATE))

    def changed(**fields):
        return msgspec.json.encode({**good, **fields})

    twice = [*good["points"], good["points"][0]]
    unknown = [{**good["points"][0], "context": "hearsay"}]
    below = [{**good["points"][0], "kl_geomean": 5.0}]
    for data in (
        b"",
        b"not json",
        dump(GATE)[:-20],
        changed(model_fingerprint="x"),
        changed(points=twice),
        changed(points=unknown),
        changed(points=below),
        changed(more=1),
        changed(share=1.5),
        b" " * (5 << 20),
    ):
        with pytest.raises(IntegrityError):
            load(data)


def test_a_gate_of_another_model_or_profile_says_which_it_is():
    check(GATE, MODEL, PROFILE)
    with pytest.raises(FingerprintMismatchError, match="of model"):
        check(GATE, "ef" * 32, PROFILE)
    with pytest.raises(FingerprintMismatchError, match="stale"):
        check(GATE, MODEL, "ef" * 32)


def test_the_tolerance_bound_covers_what_it_promises():
    """Of bounds from 24 log-normal values each, 90 % lie above the distribution's own 95th percentile."""
    rng = random.Random(0)
    true = math.exp(NormalDist(-3, 1.2).inv_cdf(0.95))
    above = [upper_bound([rng.lognormvariate(-3, 1.2) for _ in range(24)], 0.95, 0.9) >= true for _ in range(2000)]
    assert 0.88 < sum(above) / len(above) < 0.95
    with pytest.raises(ValueError, match="at least 4"):
        upper_bound([0.1] * 3, 0.95, 0.9)


def test_means_and_ratios_are_those_of_logarithms():
    assert geometric_mean([1e-3, 1e-1]) == pytest.approx(1e-2)
    middle, low, high = ratio([0.1, 0.4, 0.9], [0.2, 0.8, 1.8])
    assert (middle, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio([0.1], [0.2])[1:] == (0.0, math.inf)
    assert geometric_mean([0.0]) > 0, "what rounding made 0 has a logarithm too"
