"""Records of requests: bounded in number, bytes and age, and of one namespace."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.levels import LOSSLESS_POINT
from kvquilt_router.gate.types import Decision
from kvquilt_router.refusals import REFUSALS_KEPT, Refusals
from kvquilt_router.types import BlendOptions
from kvquilt_router.why.records import RequestLog
from kvquilt_router.why.types import RequestRecord


def record(name, tokens=10):
    options = BlendOptions(None, None, LOSSLESS_POINT, 0.3)
    return RequestRecord(str(name), 0.0, np.zeros(tokens, np.uint32), 0, options, Decision("none", 0.0, None), ())


@given(
    count=st.integers(0, 6),
    nbytes=st.integers(0, 20_000),
    sizes=st.lists(st.integers(1, 4000), max_size=20),
)
def test_neither_number_nor_bytes_are_ever_exceeded_and_the_latest_stay(count, nbytes, sizes):
    log = RequestLog(count, nbytes, 100.0, lambda: 0.0)
    kept = []
    for number, size in enumerate(sizes):
        one = record(number, size)
        assert log.add(one) == (count > 0 and one.nbytes <= nbytes)
        kept += [one] if count > 0 and one.nbytes <= nbytes else []
        while len(kept) > count or sum(known.nbytes for known in kept) > nbytes:
            kept.pop(0)
        assert (len(log), log.nbytes) == (len(kept), sum(known.nbytes for known in kept))
        assert all(log.get(known.request_id) is known for known in kept)


def test_an_old_record_is_gone_and_its_memory_with_it():
    now = [0.0]
    log = RequestLog(10, 1 << 20, 60.0, lambda: now[0])
    log.add(record("a"))
    now[0] = 60.0
    assert log.get("a")
    now[0] = 61.0
    with pytest.raises(NotFoundError) as caught:
        log.get("a")
    assert caught.value.reason == "unknown_request"
    assert (len(log), log.nbytes) == (0, 0)


def test_of_what_could_not_be_stored_the_latest_is_known_until_it_was_stored():
    refusals = Refusals()
    for number in range(REFUSALS_KEPT + 5):
        refusals.refused(number.to_bytes(32, "big"), "even" if number % 2 == 0 else "odd", "over_cap")
    assert refusals.reason((4).to_bytes(32, "big")) == ""
    assert refusals.reason((5).to_bytes(32, "big")) == "over_cap"
    refusals.stored((5).to_bytes(32, "big"))
    assert refusals.reason((5).to_bytes(32, "big")) == ""
    refusals.forget("even")
    assert [refusals.reason(number.to_bytes(32, "big")) for number in (6, 7)] == ["", "over_cap"]
