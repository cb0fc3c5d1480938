"""Where a router has its profile from, and what happens while it cannot be had."""

import asyncio
import contextlib

import numpy as np
import pytest

from kvquilt import Client
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file
from kvquilt_router.profiles import cached_path, shipped_path, write_whole
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from tests.router.profiles.calls import (
    DEADLINE,
    DOCUMENT,
    blended,
    free_port,
    node_at,
    on_node,
    put_profile,
    reasons,
)
from tests.stack import eventually, router_only


async def started(model, **settings):
    async with running_router(RouterSettings(port=0, nodes="127.0.0.1:1", **settings), model) as address:
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
            async with running_router(RouterSettings(port=0, nodes=node, profile=digest), model):
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


def test_auto_takes_what_came_with_a_package_and_its_gate_until_one_is_made_here(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = shipped_path(model.fingerprint)
    point = GatePoint("none", 0.0, "exact", "high", 4, 0.01, 0.02, 0.9, 0.1)
    gate = Gate(model.fingerprint, file.digest(data), 16, 0.95, 0.9, "made by hand", (point,))
    write_whole(kept, data)
    write_whole(gate_file.beside(kept), gate_file.dump(gate))
    made = cached_path(model.fingerprint)
    for path in (kept, made):
        with router_only(model, "127.0.0.1:1", profile="auto", ungated=False) as router, Client(router) as client:
            (served,) = client.status().models
            assert served.profile.digest == file.digest(data)
            assert served.gate.source == str(gate_file.beside(path))
        write_whole(made, data)
        write_whole(gate_file.beside(made), gate_file.dump(gate))


def test_a_node_that_comes_later_gets_the_profile(model, path, data, tmp_path):
    port = free_port()
    with (
        router_only(model, f"127.0.0.1:{port}", profile=str(path), background=False) as router,
        Client(router) as client,
    ):
        assert reasons(blended(client, "low")[0]) == ["node_unavailable"]
        with node_at(port, tmp_path) as node:
            eventually(lambda: on_node(node, lambda call: call.profiles.list(deadline=DEADLINE)))
            (done,) = client.prefetch([DOCUMENT])
            assert done.stored == 1
            assert on_node(node, lambda call: call.profiles.get(file.digest(data), deadline=DEADLINE)) == data


def test_a_node_that_lost_its_store_gets_the_profile_before_the_next_object(model, path, tmp_path):
    port = free_port()
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(contextlib.ExitStack())
        node.enter_context(node_at(port, tmp_path, "memory"))
        router = stack.enter_context(
            router_only(model, f"127.0.0.1:{port}", profile=str(path), background=False, stat_deadline=10)
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
        router_only(model, node, profile=digest, background=False) as router,
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
        with router_only(model, node, profile=digest, background=False) as router, Client(router) as client:
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
    eventually(lambda: client.status().nodes[0].objects == 0)
