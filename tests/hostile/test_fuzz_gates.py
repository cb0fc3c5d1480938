"""Mutated files of gates and audits: one that is accepted is whole, and everything else is an IntegrityError."""

import json
import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.gate import CONTEXTS, Gate, audits_file, file
from kvquilt_codec.gate.audits import GateAudits, PointAudits, Tally, new_replica
from tests.codec.gates import PROFILE_DIGEST, make_files, make_gate
from tests.codec.samples import FINGERPRINT
from tests.hostile import mutations

VALID = make_files(2)
MUTATIONS = 2_000


def check_whole(gate: Gate) -> None:
    """It is written again as it was read, and every bound is a number."""
    assert file.load(file.dump(gate)) == gate
    for point in gate.points:
        assert point.context in CONTEXTS
        assert 0 <= point.kl_geomean <= point.kl_upper < math.inf
        assert 0 <= point.recompute_ratio <= 1
        assert point.cpu_share < math.inf
        assert point.cases < 2**32, "it fits the wire"


def lying(valid: bytes, rng: random.Random) -> bytes:
    """JSON of the right form in which something else stands somewhere."""
    gate: dict[str, Any] = json.loads(valid)
    place = rng.choice([gate, rng.choice(gate["points"])])
    numbers = [-1, 0, 0.5, 2, 4, 2**40, 1e308, math.inf, math.nan]
    wrong = [*mutations.WRONG, *numbers, "exact", "x" * 1000, "ab" * 32, [], {}, json.loads(valid)["points"][:1]]
    place[rng.choice([*place, "colour"])] = rng.choice(wrong)
    return json.dumps(gate).encode()


def test_a_mutated_or_lying_file_is_a_whole_gate_or_an_integrity_error() -> None:
    seen: Counter[str] = Counter()
    for number in range(MUTATIONS):
        rng = random.Random(f"gate {number}")
        valid = rng.choice(VALID)
        data = mutations.mutated(valid, rng, VALID) if number % 2 else lying(valid, rng)
        if data not in VALID:
            with pytest.raises(IntegrityError):
                file.load(data, file.digest(valid))
        try:
            gate = file.load(data)
        except IntegrityError:
            seen["refused"] += 1
            continue
        check_whole(gate)
        seen["read"] += 1
    assert seen.total() == MUTATIONS
    assert min(seen["refused"], seen["read"]) > 0


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200))
@example(data=b"")
@example(data=b"[" * 50_000)
@example(data=b'{"texts":' * 50_000)
@example(data=b'{"points":' + b"[" * 50_000)
@example(data=VALID[0] + b"{}")
@example(data=b"\xff\xfe" + VALID[0])
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        file.load(data)


def _audits(number: int) -> bytes:
    points = {
        point.key: PointAudits(
            *point.key, number, folded_until=new_replica(1.0), replicas={new_replica(2.0): Tally(9, 2)}
        )
        for point in make_gate().points
    }
    return audits_file.dump(GateAudits("ab" * 32, FINGERPRINT, PROFILE_DIGEST).with_points(points))


def test_mutated_audits_are_whole_audits_that_merge_or_an_integrity_error() -> None:
    valid = [_audits(number) for number in range(2)]
    known = audits_file.load(valid[0])
    seen: Counter[str] = Counter()
    for number in range(MUTATIONS):
        rng = random.Random(f"audits {number}")
        data = mutations.mutated(rng.choice(valid), rng, valid)
        try:
            audits = audits_file.load(data)
        except IntegrityError:
            seen["refused"] += 1
            continue
        seen["read"] += 1
        for state in (audits, known.merged(audits)):
            written = audits_file.dump(state.with_points(state.by_key()))
            assert audits_file.load(written) == state.with_points(state.by_key())
            assert all(0 <= point.total.exceeded <= point.total.audits for point in state.points)
    assert min(seen["refused"], seen["read"]) > 0
