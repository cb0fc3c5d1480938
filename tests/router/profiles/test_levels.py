"""Levels through real routers and nodes: one stored object, read as coarse or fine as asked."""

import numpy as np
import pytest

from kvquilt import Client
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.profile import file
from tests.router.profiles.calls import DOCUMENT, QUESTION, SEGMENTS, blended, reasons
from tests.stack import serve


def test_one_put_serves_every_level_with_fewer_bytes_the_coarser(client, data):
    (done,) = client.prefetch([DOCUMENT])
    assert (done.stored, done.failed, done.level) == (1, 0, "high")
    assert [item.present for item in client.prefetch([DOCUMENT], level="low")] == [1], "one object for all of them"
    assert client.status().nodes[0].objects == 1
    exact, reference = blended(client, "lossless")
    assert reasons(exact) == ["not_stored"], "the lossless form is another object"
    found = {level: blended(client, level) for level in ("low", "medium", "high")}
    sizes = [kv.report.fetched_bytes for kv, _ in found.values()]
    errors = [float(np.abs(keys - reference).mean()) for _, keys in found.values()]
    assert [kv.report.level for kv, _ in found.values()] == list(found)
    assert not any(reason for kv, _ in found.values() for reason in reasons(kv))
    assert sizes[0] < 0.6 * sizes[2]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[2]


def test_a_bound_takes_the_cheapest_level_that_meets_it(client, data):
    list(client.prefetch([DOCUMENT]))
    cards = {card.level: card for card in file.load(data).cards}
    for level, bound in (("low", 2 * cards["low"].kl), ("medium", cards["low"].kl), ("lossless", cards["high"].kl)):
        kv, keys = blended(client, f"kl<{bound!r}")
        assert kv.report.level == level
        assert np.array_equal(keys, blended(client, level)[1])
        assert client.plan(SEGMENTS, level=f"kl<{bound!r}").level == level


def test_the_shared_prefix_stays_lossless(client):
    prefix = [9, 8, 7]
    list(client.prefetch([DOCUMENT], shared_prefix=prefix, level="low"))
    first, _ = client.blend(SEGMENTS, shared_prefix=prefix, policy="none", level="low").report.chunks
    (alone,) = client.blend([QUESTION], shared_prefix=prefix, level="lossless").report.chunks
    assert first.fetched_bytes == alone.fetched_bytes > 0


def test_without_a_profile_levels_are_lossless_and_high(model, tmp_path):
    with serve(model, tmp_path, background=False) as router, Client(router) as client:
        assert client.status().models[0].profile is None
        for call in (
            lambda level: client.blend(SEGMENTS, level=level),
            lambda level: client.plan(SEGMENTS, level=level),
            lambda level: list(client.prefetch([DOCUMENT], level=level)),
        ):
            for level in ("medium", "low"):
                with pytest.raises(BadRequestError, match="kvquilt calibrate") as caught:
                    call(level)
                assert caught.value.reason == "no_profile"
        (done,) = client.prefetch([DOCUMENT], level="kl<0.5")
        assert done.level == "lossless"
        kv, _ = blended(client, "kl<0.5")
        assert (kv.report.level, reasons(kv)) == ("lossless", [""])


@pytest.mark.parametrize("level", ["huge", "kl<0", "kl<nan", "kl<-1", "kl<"])
def test_levels_that_cannot_be_are_refused(client, level):
    with pytest.raises(BadRequestError):
        client.blend(SEGMENTS, level=level)


def test_status_tells_the_profile_and_what_was_measured(client, data):
    profile = client.status().models[0].profile
    assert (profile.digest, profile.miss_reason) == (file.digest(data), "")
    assert list(profile.levels) == list(reversed(file.load(data).cards))
    assert profile.texts == file.load(data).texts
