"""What audits found of a gate: states that merge in any order, count nothing twice, and stay small."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError
from kvquilt_codec.gate import Gate, audits_file
from kvquilt_codec.gate.audits import (
    FIRST_REPLICA,
    MAX_POINTS,
    MAX_REPLICAS,
    GateAudits,
    PointAudits,
    Tally,
    new_replica,
)
from tests.codec.gates import PROFILE_DIGEST, make_gate
from tests.codec.samples import FINGERPRINT

KEY = ("none", 0.0, "warm", "high")
EMPTY = GateAudits("ab" * 32, FINGERPRINT, PROFILE_DIGEST)
REPLICAS = tuple(f"{number:028x}" for number in range(1, 7))


def state(*points: PointAudits) -> GateAudits:
    return EMPTY.with_points({point.key: point for point in points})


def tally(number: int) -> Tally:
    """Audits of a replica that only grow: of so many, every third is beyond the bound."""
    return Tally(number, number // 3)


@st.composite
def states(draw: st.DrawFn) -> GateAudits:
    """What some router may know, folded anywhere."""
    folded = draw(st.sampled_from([FIRST_REPLICA, *REPLICAS]))
    later = [replica for replica in REPLICAS if replica > folded]
    counts = draw(st.lists(st.integers(1, 9), min_size=len(later), max_size=len(later)))
    replicas = {replica: tally(count) for replica, count in zip(later, counts, strict=True) if count < 8}
    sums = tally(draw(st.integers(0, 9))) if folded != FIRST_REPLICA else Tally()
    point = PointAudits(*KEY, draw(st.integers(0, 1)), draw(st.booleans()), folded, sums, replicas)
    return state(point)


@given(states(), states(), states())
def test_states_merge_in_any_order_and_any_number_of_times(a: GateAudits, b: GateAudits, c: GateAudits) -> None:
    assert a.merged(a) == a
    assert a.merged(b) == b.merged(a)
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(b).merged(a) == a.merged(b)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=200))
def test_nothing_counts_twice_and_all_is_known_in_the_end(steps: Sequence[tuple[int, int]]) -> None:
    """Routers audit, and hear of each other, in any order."""
    names = [new_replica(number) for number in range(4)]
    known = [EMPTY] * 4
    done = 0
    for one, other in steps:
        if one == other:
            point = known[one].by_key().get(KEY, PointAudits(*KEY))
            own = point.replicas.get(names[one], Tally()) + Tally(1, 0)
            known[one] = state(msgspec.structs.replace(point, replicas={**point.replicas, names[one]: own}))
            done += 1
        else:
            known[one] = known[one].merged(known[other])
    merged = EMPTY
    for one_state in known:
        assert sum(point.total.audits for point in one_state.points) <= done
        merged = merged.merged(one_state)
    assert sum(point.total.audits for point in merged.points) == done


def test_many_replicas_are_folded_without_a_loss_and_a_stale_copy_adds_nothing() -> None:
    known, copies = EMPTY, []
    for number in range(10 * MAX_REPLICAS):
        known = known.merged(state(PointAudits(*KEY, replicas={new_replica(number): Tally(3, 1)})))
        copies.append(known)
    (point,) = known.points
    assert len(point.replicas) <= MAX_REPLICAS
    assert point.total == Tally(30 * MAX_REPLICAS, 10 * MAX_REPLICAS)
    for copy in copies:
        assert known.merged(copy) == known


def test_a_lift_begins_anew_whatever_others_still_know() -> None:
    before = PointAudits(*KEY, withdrawn=True, replicas={new_replica(1): Tally(5, 5)})
    lifted = PointAudits(*KEY, lifts=1)
    for merged in (state(before).merged(state(lifted)), state(lifted).merged(state(before))):
        assert merged == state(lifted)
    again = PointAudits(*KEY, lifts=1, withdrawn=True)
    assert state(lifted).merged(state(again)) == state(again), "what is withdrawn stays so until it is lifted"


def test_the_largest_state_fits_a_file_and_sums_stay_within_what_is_read() -> None:
    most = 1 << 31
    full = {f"0{number:027x}": Tally(most, most) for number in range(1, MAX_REPLICAS + 1)}
    named = [("p" * 64, number / (MAX_POINTS + 10), "exact", "l" * 64) for number in range(MAX_POINTS + 10)]
    points = {key: PointAudits(*key, most, key[1] > 0.5, FIRST_REPLICA, Tally(), full) for key in named}
    for count in (1, 128, MAX_POINTS, MAX_POINTS + 10):
        whole = EMPTY.with_points(dict(list(points.items())[:count]))
        data = audits_file.dump(whole)
        assert len(data) <= audits_file.MAX_BYTES
        assert audits_file.load(data) == whole
        assert sum(point.withdrawn for point in whole.points) == sum(key[1] > 0.5 for key in named[:count])


def test_audits_of_another_gate_are_refused() -> None:
    audits_file.check(EMPTY, "ab" * 32, FINGERPRINT, PROFILE_DIGEST)
    for names in (("cd" * 32, FINGERPRINT, PROFILE_DIGEST), ("ab" * 32, "cd" * 32, PROFILE_DIGEST)):
        with pytest.raises(FingerprintMismatchError, match="expected audits of gate"):
            audits_file.check(EMPTY, *names)


def test_what_a_gate_does_not_have_is_left_out() -> None:
    gate: Gate = make_gate()
    known = state(PointAudits(*KEY, withdrawn=True), PointAudits("full", 0.5, "warm", "high", withdrawn=True))
    assert [point.key for point in known.of(gate).points] == [KEY]


VALID = audits_file.dump(state(PointAudits(*KEY, folded_until=REPLICAS[0], replicas={REPLICAS[2]: Tally(3, 1)})))
DAMAGED = {
    "empty": b"",
    "cut": VALID[:-9],
    "a gate": VALID.replace(b'"audits"', b'"gate"'),
    "nested": b'{"kind":"audits","points":' + b"[" * 100_000,
    "an unknown field": VALID.replace(b'"withdrawn"', b'"withdrawm"'),
    "a context that is none": VALID.replace(b'"warm"', b'"cosy"'),
    "more beyond the bound than audits": VALID.replace(b"[3,1]", b"[3,4]"),
    "a negative number": VALID.replace(b"[3,1]", b"[3,-1]"),
    "a number that nobody counts to": VALID.replace(b"[3,1]", b"[9999999999999,1]"),
    "no replica": VALID.replace(REPLICAS[2].encode(), b"../../etc/passwd"),
    "a replica of the year 10000": VALID.replace(REPLICAS[2].encode(), b"f" * 28),
    "folded and apart": VALID.replace(REPLICAS[2].encode(), REPLICAS[0].encode()),
    "a point twice": VALID.replace(b'"points":[', b'"points":[' + VALID.partition(b'"points":[')[2][:-4] + b","),
    "too large": VALID + b" " * audits_file.MAX_BYTES,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_file_of_audits_is_an_integrity_error(data: bytes) -> None:
    assert data != VALID
    with pytest.raises(IntegrityError):
        audits_file.load(data)


def test_other_bytes_than_the_digests_are_an_integrity_error() -> None:
    assert audits_file.load(VALID, audits_file.digest(VALID)).points
    with pytest.raises(IntegrityError) as caught:
        audits_file.load(VALID.replace(b"[3,1]", b"[3,0]"), audits_file.digest(VALID))
    assert caught.value.reason == "checksum"
