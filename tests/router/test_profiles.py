"""Levels and profiles through real routers and nodes, with a tiny random model."""

import asyncio
import contextlib
import socket
import time
from dataclasses import replace

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.profile import file
from kvquilt_router.calibration import Text, calibrate
from kvquilt_router.engine.model import prepare
from kvquilt_router.profiles import cached_path, write_whole
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.node_client import NodeClient
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import Words, numbers
from tests.stack import in_thread, router_only, serve

DOCUMENT = Document("one", np.random.default_rng(1).integers(3, 400, 300).tolist())
QUESTION = [5, 6, 7]
SEGMENTS = [DOCUMENT.content, QUESTION]
DEADLINE = 20.0


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["gemma3"]), None, "tiny")


@pytest.fixture(scope="module")
def data(model):
    texts = [Text(f"text {seed}", numbers(seed, 150)) for seed in range(6)]
    profile = calibrate(replace(model, tokenizer=Words()), texts, step=0.2, history=2)
    return file.dump(profile)


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("profiles") / "tiny.profile"
    write_whole(path, data)
    return path


@pytest.fixture(scope="module")
def other_data(data):
    return file.dump(replace(file.load(data), model_fingerprint="0" * 64))


@pytest.fixture
def client(model, path, tmp_path):
    with serve(model, tmp_path, profile=str(path), backfill=False) as router, Client(router) as client:
        yield client


@contextlib.contextmanager
def node_at(port, folder, store="file"):
    settings = NodeSettings(port=port, path=folder, store=store, fsync=False, drain_seconds=5)
    with in_thread(lambda: running_node(settings)) as address:
        yield address


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def on_node(address, call):
    async def called():
        node = NodeClient(address)
        try:
            return await call(node)
        finally:
            await node.close()

    return asyncio.run(called())


def put_profile(address, data):
    fingerprint = file.load(data).model_fingerprint
    digest = file.digest(data)
    on_node(address, lambda node: node.put_profile(data, digest, fingerprint, deadline=DEADLINE))
    return digest


def reasons(kv):
    return [chunk.miss_reason for chunk in kv.report.chunks]


def blended(client, level, **options):
    kv = client.blend(SEGMENTS, policy="none", level=level, **options)
    return kv, np.concatenate([kv.layers[i].keys[:300].ravel() for i in range(4)])


def eventually(condition):
    """Wait for what happens in the background; the test's own timeout is the limit."""
    while not condition():
        time.sleep(0.02)


# Levels


def test_one_put_serves_every_level_with_fewer_bytes_the_coarser(client, data):
    (done,) = client.prefetch([DOCUMENT])
    assert (done.stored, done.failed, done.level) == (1, 0, "high")
    assert [item.present for item in client.prefetch([DOCUMENT], level="low")] == [1], "one object for all of them"
    assert client.status().node.objects == 1
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
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


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
    with serve(model, tmp_path, backfill=False) as router, Client(router) as client:
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


# Upgrades


def test_a_finer_level_fetches_only_what_is_missing_and_gives_the_same_bits(model, path, tmp_path):
    with node_at(0, tmp_path) as node:
        options = {"profile": str(path), "backfill": False}
        with (
            router_only(model, node, **options) as plain,
            router_only(model, node, held_bytes=1 << 24, **options) as keeping,
            Client(plain) as direct,
            Client(keeping) as held,
        ):
            list(direct.prefetch([DOCUMENT]))
            fetched = {}
            for level in ("low", "medium", "high"):
                expected, keys = blended(direct, level)
                got, same = blended(held, level)
                assert np.array_equal(keys, same)
                fetched[level] = (expected.report.fetched_bytes, got.report.fetched_bytes)
            assert fetched["low"][0] == fetched["low"][1]
            (_, first), (_, second), (whole, third) = fetched.values()
            assert third < whole / 2
            heads = first + second + third - whole
            assert 0 < heads < whole / 4, "the head three times, every section once"
            for level in ("low", "high"):
                kv, keys = blended(held, level)
                assert kv.report.fetched_bytes == 0
                assert np.array_equal(keys, blended(direct, level)[1])
            direct.forget(DOCUMENT.document_id)
            assert reasons(blended(held, "high")[0]) == ["not_stored"], "what is forgotten is not used"


def test_what_is_held_of_an_object_that_was_stored_anew_is_fetched_again(model, path, tmp_path):
    options = {"profile": str(path), "backfill": False, "held_bytes": 1 << 24}
    with serve(model, tmp_path, **options) as router, Client(router) as client:
        list(client.prefetch([DOCUMENT]))
        blended(client, "low")
        client.forget(DOCUMENT.document_id)
        list(client.prefetch([replace(DOCUMENT, document_id="another")]))  # its head names another document
        kv, _ = blended(client, "high")
        assert reasons(kv) == [""]
        assert blended(client, "high")[0].report.fetched_bytes == 0
        assert client.status().node.objects == 1, "nothing was taken for damaged"


# Where the profile comes from


async def started(model, **settings):
    async with running_router(RouterSettings(port=0, node="127.0.0.1:1", **settings), model) as address:
        return address


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, NotFoundError), (b"not a profile", IntegrityError), ("other", FingerprintMismatchError)],
)
async def test_a_profile_that_is_named_must_be_one_of_this_model(model, tmp_path, other_data, content, error):
    path = tmp_path / "a.profile"
    if content is not None:
        path.write_bytes(other_data if content == "other" else content)
    with pytest.raises(error):
        await started(model, profile=str(path))


async def test_a_default_level_without_its_profile_is_refused_at_start(model):
    with pytest.raises(BadRequestError, match="kvquilt calibrate"):
        await started(model, profile="", level="medium")


def test_another_models_profile_on_the_node_is_refused_at_start(model, other_data, tmp_path):
    with node_at(0, tmp_path) as node:
        digest = put_profile(node, other_data)

        async def start():
            async with running_router(RouterSettings(port=0, node=node, profile=digest), model):
                pass

        with pytest.raises(FingerprintMismatchError):
            asyncio.run(start())


def test_auto_takes_the_cached_profile_if_it_is_one_of_this_model(model, data, other_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for content, expected in ((None, None), (other_data, None), (b"damaged", None), (data, file.digest(data))):
        if content is not None:
            write_whole(cached_path(model.fingerprint), content)
        with router_only(model, "127.0.0.1:1", profile="auto") as router, Client(router) as client:
            profile = client.status().models[0].profile
            assert (profile and profile.digest) == expected


def test_a_node_that_comes_later_gets_the_profile(model, path, data, tmp_path):
    port = free_port()
    with router_only(model, f"127.0.0.1:{port}", profile=str(path), backfill=False) as router, Client(router) as client:
        assert reasons(blended(client, "low")[0]) == ["node_unavailable"]
        with node_at(port, tmp_path) as node:
            eventually(lambda: on_node(node, lambda call: call.list_profiles(deadline=DEADLINE)))
            (done,) = client.prefetch([DOCUMENT])
            assert done.stored == 1
            assert on_node(node, lambda call: call.get_profile(file.digest(data), deadline=DEADLINE)) == data


def test_a_node_that_lost_its_store_gets_the_profile_before_the_next_object(model, path, tmp_path):
    port = free_port()
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(contextlib.ExitStack())
        node.enter_context(node_at(port, tmp_path, "memory"))
        router = stack.enter_context(
            router_only(model, f"127.0.0.1:{port}", profile=str(path), backfill=False, stat_deadline=10)
        )
        client = stack.enter_context(Client(router))
        list(client.prefetch([DOCUMENT]))
        node.close()
        stack.enter_context(node_at(port, tmp_path, "memory"))
        (done,) = client.prefetch([DOCUMENT])
        assert (done.stored, done.failure_reason) == (1, "")
        assert reasons(blended(client, "medium")[0]) == [""]


# When it cannot be had


def test_documents_are_missed_until_the_profile_of_the_digest_can_be_had(model, data, tmp_path):
    digest = file.digest(data)
    with (
        node_at(0, tmp_path) as node,
        router_only(model, node, profile=digest, backfill=False) as router,
        Client(router) as client,
    ):
        kv, reference = blended(client, "medium")
        assert (reasons(kv), kv.report.level) == (["profile_missing"], "medium")
        assert np.array_equal(reference, blended(client, "kl<1e-3")[1]), "computed, whatever was asked for"
        (done,) = client.prefetch([DOCUMENT])
        assert (done.stored, done.failed) == (0, 1)
        assert "profile" in done.failure_reason
        (kept,) = client.prefetch([DOCUMENT], level="lossless")
        assert kept.stored == 1, "lossless needs no profile"
        status = client.status()
        assert status.counters["chunks_missed_profile_missing"] == 2
        assert status.models[0].profile.miss_reason == "profile_missing"
        put_profile(node, data)
        eventually(lambda: not client.status().models[0].profile.miss_reason)
        list(client.prefetch([DOCUMENT]))
        assert reasons(blended(client, "medium")[0]) == [""]


def test_a_damaged_profile_on_the_node_is_a_miss_of_its_own(model, data, tmp_path):
    with node_at(0, tmp_path) as node:
        digest = put_profile(node, data)
        (stored,) = tmp_path.glob(f"blobs/??/{digest}.kvq")
        stored.write_bytes(data[:-1])
        with router_only(model, node, profile=digest, backfill=False) as router, Client(router) as client:
            assert reasons(blended(client, "low")[0]) == ["profile_damaged"]
            assert client.status().counters["chunks_missed_profile_damaged"] == 1
            put_profile(node, data)
            eventually(lambda: not client.status().models[0].profile.miss_reason)


def test_a_damaged_object_is_missed_only_by_readers_of_the_damaged_part(client, tmp_path):
    list(client.prefetch([DOCUMENT]))
    profile, stored = sorted(tmp_path.glob("blobs/??/*.kvq"), key=lambda blob: -blob.stat().st_size)
    assert profile.stem == client.status().models[0].profile.digest
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    assert reasons(blended(client, "low")[0]) == [""], "its sections are intact"
    assert reasons(blended(client, "high")[0]) == ["damaged"]
    eventually(lambda: client.status().node.objects == 0)
