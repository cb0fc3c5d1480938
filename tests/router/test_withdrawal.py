"""When audits disprove an operating point, and what a router hears of others."""

import math
import random
from fractions import Fraction

import pytest

from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_codec.gate import file
from kvquilt_codec.gate.audits import MAX_REPLICAS, PointAudits, Tally, new_replica
from kvquilt_router.gate.withdrawal import Audits, binomial_tail
from tests.codec.gates import make_gate

GATE = make_gate(upper=0.1)
POINT = GATE.points[0]
OTHER = GATE.points[1]
BELOW, BEYOND = 0.05, 0.5


def test_a_point_is_withdrawn_by_what_its_bound_makes_unlikely() -> None:
    audits = Audits(GATE)
    assert [audits.record(POINT, kl) for kl in (BELOW, BEYOND, BELOW)] == [False] * 3, "one proves nothing"
    assert not audits.withdrawn
    assert [audits.record(POINT, BEYOND) for _ in range(2)] == [False, True], "two of five have a probability of 2 %"
    assert audits.withdrawn == {POINT.key}
    assert audits.record(POINT, BEYOND) is False, "it is already"
    assert audits.of(POINT.key).total == Tally(6, 4)
    assert audits.of(OTHER.key).total == Tally()


def test_nothing_is_trusted_before_others_were_heard() -> None:
    audits = Audits(GATE)
    assert audits.untrusted == {point.key for point in GATE.points}
    assert audits.hear(audits.state) == ([], [])
    assert audits.untrusted == frozenset()


def test_what_another_router_withdrew_is_withdrawn_and_told_once() -> None:
    one, other = Audits(GATE), Audits(GATE)
    for _ in range(2):
        one.record(POINT, BEYOND)
    assert other.hear(one.state) == ([], [POINT.key])
    assert other.untrusted == {POINT.key}
    assert other.hear(one.state) == ([], [])
    assert other.state == one.state


def test_audits_of_several_routers_withdraw_together_what_none_of_them_does() -> None:
    routers = [Audits(GATE) for _ in range(3)]
    assert not any(audits.record(POINT, BEYOND) for audits in routers)
    first, second, third = routers
    assert first.hear(second.state) == ([POINT.key], [])
    assert third.hear(first.state) == ([], [POINT.key]), "found by the first, heard of by the third"
    assert third.of(POINT.key).total == Tally(3, 3)
    assert first.hear(third.state) == ([], [])
    assert first.of(POINT.key).total == Tally(3, 3), "its own audit, which comes back, counts once"


def test_another_gate_inherits_nothing_and_a_reformatted_one_is_the_same() -> None:
    one = Audits(GATE)
    one.record(POINT, BEYOND)
    measured_anew = make_gate(upper=0.2)
    assert Audits(measured_anew).state.gate != one.state.gate
    written_otherwise = file.load(file.dump(GATE).replace(b"\n", b"").replace(b" ", b""))
    assert Audits(written_otherwise).state.gate == one.state.gate


def test_a_lifted_point_is_in_force_until_new_audits_disprove_it() -> None:
    audits, other = Audits(GATE), Audits(GATE)
    for _ in range(2):
        audits.record(POINT, BEYOND)
    other.hear(audits.state)
    with pytest.raises(BadRequestError, match="is in force"):
        audits.lift(OTHER.key)
    with pytest.raises(NotFoundError, match="expected a point of the gate"):
        audits.lift(("full", 1.0, "warm", "high"))
    audits.lift(POINT.key)
    assert not audits.withdrawn
    assert other.record(POINT, BEYOND) is False
    other.hear(audits.state)
    assert not other.withdrawn
    assert other.of(POINT.key).total == Tally(), "what was audited before the lift counts no more"
    assert (other.of(POINT.key).lifts, audits.hear(other.state)) == (1, ([], []))
    assert [other.record(POINT, BEYOND) for _ in range(2)] == [False, True]
    assert audits.hear(other.state) == ([], [POINT.key])


def test_a_router_that_was_folded_counts_on_under_another_name() -> None:
    old = Audits(GATE, clock=lambda: 1000.0)
    old.record(POINT, BELOW)
    others = {new_replica(2000.0 + number): Tally(1, 0) for number in range(MAX_REPLICAS)}
    old.hear(old.state.merged(old.state.with_points({POINT.key: PointAudits(*POINT.key, replicas=others)})))
    assert old.of(POINT.key).folded.audits > 0
    assert old.of(POINT.key).total == Tally(MAX_REPLICAS + 1, 0)
    old.record(POINT, BEYOND)
    assert old.of(POINT.key).total == Tally(MAX_REPLICAS + 2, 1)
    old.hear(old.state)
    assert old.of(POINT.key).total == Tally(MAX_REPLICAS + 2, 1)


def exact_tail(successes: int, trials: int, probability: float) -> float:
    terms = (math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes))
    return 1.0 - math.fsum(terms)


def test_the_binomial_tail_is_the_sum_of_its_terms() -> None:
    draw = random.Random(0)
    for _ in range(500):
        trials = draw.randint(1, 400)
        successes, probability = draw.randint(0, trials), draw.choice([0.01, 0.05, 0.1, 0.5])
        expected = exact_tail(successes, trials, probability)
        assert binomial_tail(successes, trials, probability) == pytest.approx(expected, abs=1e-11)
    assert binomial_tail(3, 2, 0.05) == 0.0
    assert binomial_tail(1, 5, 0.0) == 0.0
    assert binomial_tail(5, 5, 1.0) == 1.0


def test_the_tail_of_more_audits_than_floats_can_take_powers_of() -> None:
    trials = 10_000
    terms = [math.comb(trials, k) * 19 ** (trials - k) for k in range(450, 560)]  # of 20^trials, with a share of 1/20
    whole = binomial_tail(450, trials, 0.05) - binomial_tail(560, trials, 0.05)
    assert whole == pytest.approx(float(Fraction(sum(terms), 20**trials)), rel=1e-7)
    trials = 1 << 31
    deviation = math.sqrt(trials * 0.05 * 0.95)
    for sigmas in (-2, 0.5, 3):
        found = binomial_tail(round(trials * 0.05 + sigmas * deviation), trials, 0.05)
        assert found == pytest.approx(math.erfc(sigmas / math.sqrt(2)) / 2, rel=0.01), "nearly normal"
