"""What a router keeps of encoded chunks: the most recently used, never more than its limit."""

from kvquilt_codec.container import HeldContainer
from kvquilt_router.holding import HeldChunks
from tests.codec.samples import FINGERPRINT, make_chunk, make_container

HELD = [HeldContainer.received(make_container(make_chunk(seed=seed)), FINGERPRINT) for seed in range(4)]
SIZE = max(held.nbytes for held in HELD)


def key(number):
    return bytes([number]) * 32


def test_the_least_recently_used_go_first():
    kept = HeldChunks(2 * SIZE)
    for number in (0, 1):
        kept.put(key(number), HELD[number])
    assert kept.get(key(0)) is HELD[0]
    kept.put(key(2), HELD[2])
    assert [kept.get(key(number)) for number in range(3)] == [HELD[0], None, HELD[2]]


def test_what_is_put_again_or_dropped_counts_once():
    kept = HeldChunks(2 * SIZE)
    for _ in range(5):
        kept.put(key(0), HELD[0])
    kept.put(key(1), HELD[1])
    kept.drop(key(1))
    kept.drop(key(1))
    kept.put(key(2), HELD[2])
    assert kept.get(key(0)) is HELD[0]


def test_what_does_not_fit_is_not_kept_and_evicts_nothing():
    kept = HeldChunks(HELD[0].nbytes)
    kept.put(key(0), HELD[0])
    whole = make_container(make_chunk(600))
    kept.put(key(1), HeldContainer.received(whole, FINGERPRINT))
    assert kept.get(key(1)) is None
    assert kept.get(key(0)) is HELD[0]
