"""A blend that is computed while its chunks still come is the blend that is computed when they have come."""

import contextlib
import shutil

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt.errors import DeadlineError
from kvquilt_cache_node import reading
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_router import starting
from kvquilt_router.engine.model import prepare
from kvquilt_router.policies import POLICIES
from kvquilt_router.profiles import write_whole
from kvquilt_rpc import frames
from tests.proxy import throttle
from tests.router.families import SUPPORTED, tiny
from tests.stack import blobs, in_thread, router_only

_RNG = np.random.default_rng(0)
PREFIX, QUESTION, UNKNOWN = (_RNG.integers(3, 500, n).tolist() for n in (9, 12, 40))
SHORT = [_RNG.integers(3, 500, n).tolist() for n in (120, 90, 100)]
LONG = [_RNG.integers(3, 500, n).tolist() for n in (300, 290)]
"""Of two token blocks each."""

FRAMES = {"lossless": 8192, "medium": 1024}
"""Pieces in which objects come, so small that there are many of each."""
PAUSE = 0.002
PLAIN = {"background": False, "warm_up_passages": 0, "audit_share": 0.0}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture
def begun(monkeypatch):
    """Blends begin when the first bytes of all chunks have come: the engine waits for every layer. Counts them."""
    counted = []
    monkeypatch.setattr(frames, "FRAME_BYTES", FRAMES["lossless"])
    monkeypatch.setattr(starting, "keeps_up", lambda *args: counted.append(args) is None)
    return counted


@contextlib.contextmanager
def node_with(folder):
    settings = NodeSettings(port=0, path=folder, fsync=False, drain_seconds=5)
    with in_thread(lambda: running_node(settings)) as address:
        yield address


def prefetch(client, documents):
    named = [Document(f"document {number}", content) for number, content in enumerate(documents)]
    assert not any(item.failed for item in client.prefetch(named, shared_prefix=PREFIX))


def blend(client, documents, policy="none", **options):
    """In another order than they were stored: the first one's context changes, and of two or more the others' too."""
    segments = [*documents[::-1], QUESTION]
    return client.blend(segments, shared_prefix=PREFIX, policy=policy, recompute_ratio=0.3, **options)


def assert_equal(got, expected):
    for layer, other in zip(got.layers, expected.layers, strict=True):
        assert np.array_equal(layer.keys, other.keys)
        assert np.array_equal(layer.values, other.values)
    for name in ("tokens_exact", "tokens_reused", "tokens_recomputed", "tokens_computed"):
        assert getattr(got.report, name) == getattr(expected.report, name)
    assert got.report.observed_deviation == expected.report.observed_deviation
    assert got.report.reused_deviations == expected.report.reused_deviations


@pytest.mark.parametrize("documents", [SHORT, LONG], ids=["one block", "two blocks"])
@pytest.mark.parametrize("level", FRAMES)
def test_a_pipelined_blend_is_bit_equal_whatever_the_policy(
    model, profile, begun, monkeypatch, tmp_path, documents, level
):
    monkeypatch.setattr(frames, "FRAME_BYTES", FRAMES[level])
    settings = {**PLAIN, "profile": str(profile), "level": level}
    with (
        node_with(tmp_path) as address,
        in_thread(lambda: throttle(address, FRAMES[level], PAUSE)) as through,
        router_only(model, address, pipeline=False, **settings) as plain,
        router_only(model, through, **settings) as pipelined,
        Client(plain) as client,
        Client(pipelined) as other,
    ):
        prefetch(client, documents)
        blend(other, documents)  # tells the router how fast its engine is
        assert not begun
        for policy in POLICIES:
            expected = blend(client, documents, policy)
            assert expected.report.hit
            assert expected.report.seconds["overlap"] == 0
            got = blend(other, documents, policy)
            assert_equal(got, expected)
            assert (got.report.seconds["overlap"] > 0) == (policy != "anchors"), policy
        assert len(begun) == len(POLICIES) - 1


POLICIES_OF_EACH_KIND = ["none", "contextual", "question", "deviation"]


@pytest.fixture
def faulty(model, begun, tmp_path):
    """A node with one document, another with the prefix alone, and what a blend gives that finds only that."""
    held, bare = tmp_path / "held", tmp_path / "bare"
    settings = {**PLAIN, "level": "lossless", "pipeline": False}
    with node_with(held) as address, router_only(model, address, **settings) as router, Client(router) as client:
        prefetch(client, [LONG[0]])
    shutil.copytree(held, bare)
    max(blobs(bare), key=lambda blob: blob.stat().st_size).unlink()
    expected = {}
    with node_with(bare) as address, router_only(model, address, **settings) as router, Client(router) as client:
        for policy in POLICIES_OF_EACH_KIND:
            expected[policy] = blend(client, [LONG[0], UNKNOWN], policy)
            assert [chunk.miss_reason for chunk in expected[policy].report.chunks] == ["", "not_stored", "not_stored"]
    with node_with(held) as address:
        yield address, held, expected


def assert_missed(got, expected, reason):
    assert [chunk.miss_reason for chunk in got.report.chunks] == ["", "not_stored", reason]
    assert got.report.seconds["overlap"] == 0
    assert_equal(got, expected)


@pytest.mark.parametrize(("fault", "reason"), [("close", "node_unavailable"), ("hang", "fetch_deadline")])
def test_a_node_that_fails_while_its_layers_are_computed(model, begun, faulty, fault, reason):
    address, held, expected = faulty
    size = sum(blob.stat().st_size for blob in blobs(held))
    settings = {**PLAIN, "level": "lossless", "fetch_deadline": 1.0}
    for policy, wanted in expected.items():
        with (
            in_thread(lambda: throttle(address, FRAMES["lossless"], PAUSE, 2 * size - size // 8, fault)) as through,
            router_only(model, through, **settings) as router,
            Client(router) as client,
        ):
            assert blend(client, [LONG[0], UNKNOWN]).report.fetched_bytes == size
            begun.clear()
            assert_missed(blend(client, [LONG[0], UNKNOWN], policy), wanted, reason)
            assert begun


def test_a_damaged_last_section(model, begun, faulty, monkeypatch):
    monkeypatch.setattr(reading, "STEP_BYTES", FRAMES["lossless"])  # or the node would find it before it sends anything
    address, held, expected = faulty
    path = max(blobs(held), key=lambda blob: blob.stat().st_size)
    whole = path.read_bytes()
    with (
        in_thread(lambda: throttle(address, FRAMES["lossless"], PAUSE)) as through,
        router_only(model, through, **PLAIN, level="lossless") as router,
        Client(router) as client,
        router_only(model, address, **PLAIN, level="lossless", pipeline=False) as plain,
        Client(plain) as storing,
    ):
        right = blend(client, [LONG[0], UNKNOWN])
        for policy, wanted in expected.items():
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            begun.clear()
            assert_missed(blend(client, [LONG[0], UNKNOWN], policy), wanted, "damaged")
            assert begun
            # It was dropped, and is stored anew.
            prefetch(storing, [LONG[0]])
        assert_equal(blend(client, [LONG[0], UNKNOWN]), right)


def test_a_caller_that_goes_away_frees_the_engine(model, begun, faulty):
    address, held, _ = faulty
    size = sum(blob.stat().st_size for blob in blobs(held))
    with (
        in_thread(lambda: throttle(address, FRAMES["lossless"], PAUSE, 2 * size - size // 8, "hang")) as through,
        router_only(model, through, **PLAIN, level="lossless", fetch_deadline=600.0) as router,
        Client(router) as client,
    ):
        blend(client, [LONG[0], UNKNOWN])
        with pytest.raises(DeadlineError):
            blend(client, [LONG[0], UNKNOWN], deadline=1.0)
        assert begun
        # Nothing is known of these tokens, so the node is asked for the prefix only, and nothing of it comes.
        blended = client.blend([UNKNOWN, QUESTION], shared_prefix=[], policy="none", deadline=60.0)
        assert blended.report.tokens_computed == len(UNKNOWN) + len(QUESTION)


def test_a_balanced_blend_recomputes_what_was_measured_and_shows_it(model, profile, begun, monkeypatch, tmp_path):
    monkeypatch.setattr(frames, "FRAME_BYTES", FRAMES["medium"])
    digest = profile_file.digest(profile.read_bytes())
    measured = [("none", 0.0, "exact"), ("random", 0.2, "base"), ("random", 0.4, "base"), ("question", 0.6, "base")]
    points = tuple(GatePoint(*point, "medium", 8, 0.01, 0.1, 0.9, 0.1 + point[1]) for point in measured)
    write_whole(
        tmp_path / "gate.json", gate_file.dump(Gate(model.fingerprint, digest, 16, 0.95, 0.9, "made by hand", points))
    )
    settings = {**PLAIN, "profile": str(profile), "level": "medium", "ungated": False}
    settings["gate"] = str(tmp_path / "gate.json")
    with (
        node_with(tmp_path / "store") as address,
        in_thread(lambda: throttle(address, FRAMES["medium"], 0.02)) as through,
        router_only(model, through, balance=True, **settings) as router,
        Client(router) as client,
    ):
        prefetch(client, SHORT)

        def ratio(**options):
            segments = [*SHORT[::-1], QUESTION]
            return client.blend(segments, shared_prefix=PREFIX, **options).report.recompute_ratio

        assert ratio() == 0.2, "how fast the engine is was not known"
        assert ratio() == 0.4
        assert ratio(policy="random", recompute_ratio=0.2) == 0.2
