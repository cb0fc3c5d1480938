"""Where a router has its gate from, and what happens while it cannot be had."""

import contextlib

import pytest

from kvquilt import Client
from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file
from kvquilt_router.profiles import write_whole
from tests.codec.gates import make_gate
from tests.router.profiles.calls import (
    DEADLINE,
    DOCUMENT,
    QUESTION,
    free_port,
    node_at,
    on_node,
    put_profile,
)
from tests.stack import eventually, router_only, unheard

FIRST = list(range(3, 60))
"""A document before the stored one: its context is another then."""


@pytest.fixture(scope="package")
def digest(data):
    return file.digest(data)


@pytest.fixture(scope="package")
def gate(model, digest):
    return gate_file.dump(make_gate(model.fingerprint, digest))


@pytest.fixture
def own_path(data, tmp_path):
    """A profile in a folder of the test's own."""
    path = tmp_path / "own" / "tiny.safetensors"
    write_whole(path, data)
    return path


@contextlib.contextmanager
def gated(model, node, **settings):
    """A client of a router that has its gate wherever it finds it."""
    options = {"ungated": False, "gate": "auto", "background": False, "max_kl": 0.2, "audit_share": 0.0}
    with router_only(model, node, **{**options, **settings}) as router, Client(router) as client:
        yield client


def put_gate(node, data):
    return on_node(node, lambda call: call.gates.put(data, deadline=DEADLINE))


def gate_on(node, model, digest):
    """The file, or nothing."""
    with contextlib.suppress(NotFoundError):
        return on_node(node, lambda call: call.gates.get(digest, model.fingerprint, deadline=DEADLINE))


def held(client):
    return client.status().models[0].gate


def used(client):
    """Tokens of the stored document that are reused in another context, and why they are not."""
    eventually(lambda: not unheard(client))
    kv = client.blend([FIRST, DOCUMENT.content, QUESTION])
    return kv.report.tokens_reused, kv.report.gate_refusal


def test_a_router_that_knows_a_digest_gets_profile_and_gate_from_the_node(model, data, gate, digest, tmp_path):
    with node_at(0, tmp_path) as node:
        put_profile(node, data)
        put_gate(node, gate)
        with gated(model, node, profile=digest) as client:
            found = held(client)
            assert (found.source, found.missing_reason) == ("node", "")
            assert len(found.points) == len(gate_file.load(gate).points)
            list(client.prefetch([DOCUMENT]))
            tokens, refusal = used(client)
            assert (tokens, refusal) == (300, "")
            assert client.blend([FIRST, DOCUMENT.content, QUESTION]).report.predicted_kl == 0.1


def test_a_gate_beside_the_profile_is_used_and_given_to_the_node(model, own_path, gate, digest, tmp_path):
    beside = gate_file.beside(own_path)
    write_whole(beside, gate)
    port = free_port()
    with gated(model, f"127.0.0.1:{port}", profile=str(own_path)) as client:
        assert held(client).source == str(beside), "a node that is down delays nothing"
        with node_at(port, tmp_path) as node:
            eventually(lambda: on_node(node, lambda call: call.profiles.list(deadline=DEADLINE)))
            eventually(lambda: gate_on(node, model, digest) == gate)
            assert on_node(node, lambda call: call.profiles.list(deadline=DEADLINE))[0].gates == 1


@pytest.mark.parametrize("source", ["file", "node"])
def test_a_node_that_lost_its_store_gets_the_gate_again(model, data, own_path, gate, digest, tmp_path, source):
    port = free_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        node = first.enter_context(node_at(port, tmp_path, "memory"))
        if source == "file":
            write_whole(gate_file.beside(own_path), gate)
        else:
            put_gate(node, gate)
        client = stack.enter_context(gated(model, node, profile=str(own_path), stat_deadline=10))
        assert (held(client).source == "node") == (source == "node")
        list(client.prefetch([DOCUMENT]))
        eventually(lambda: gate_on(node, model, digest) == gate)
        first.close()
        stack.enter_context(node_at(port, tmp_path, "memory"))
        (done,) = client.prefetch([DOCUMENT])
        assert done.stored == 1, "the profile came before it"
        eventually(lambda: gate_on(node, model, digest) == gate)


def test_the_file_beside_the_profile_goes_before_the_nodes_gate(model, own_path, gate, digest, tmp_path):
    write_whole(gate_file.beside(own_path), gate)
    with node_at(0, tmp_path) as node:
        put_gate(node, gate_file.dump(make_gate(model.fingerprint, digest, upper=0.01)))
        with gated(model, node, profile=str(own_path)) as client:
            assert {point.kl_upper for point in held(client).points} == {0.1}


def test_a_gate_that_comes_later_is_used_from_then_on(model, own_path, gate, tmp_path):
    port = free_port()
    with gated(model, f"127.0.0.1:{port}", profile=str(own_path)) as client:
        assert "no gate was measured" in held(client).missing_reason
        with node_at(port, tmp_path) as node:
            eventually(lambda: client.status().nodes[0].reachable)
            list(client.prefetch([DOCUMENT]))
            assert used(client) == (0, "no_gate")
            put_gate(node, gate)
            eventually(lambda: not held(client).missing_reason)
            assert held(client).source == "node"
            assert used(client) == (300, "")


@pytest.mark.parametrize("of", ["another profile", "another model"])
def test_a_gate_of_another_profile_or_model_on_the_node_is_not_used(model, own_path, digest, tmp_path, of):
    names = (model.fingerprint, "0e" * 32) if of == "another profile" else ("0e" * 32, digest)
    with node_at(0, tmp_path) as node:
        put_gate(node, gate_file.dump(make_gate(*names)))
        with gated(model, node, profile=str(own_path)) as client:
            assert "no gate was measured" in held(client).missing_reason
            list(client.prefetch([DOCUMENT]))
            assert used(client) == (0, "no_gate")


def test_a_damaged_gate_on_the_node_is_refused_with_the_reason_and_dropped(model, own_path, gate, tmp_path):
    with node_at(0, tmp_path) as node:
        put_gate(node, gate)
        (stored,) = tmp_path.glob(f"blobs/??/{gate_file.digest(gate)}.kvq")
        stored.write_bytes(gate.replace(b"0.1,", b"0.0,", 1))
        with gated(model, node, profile=str(own_path)) as client:
            assert "expected an intact gate" in held(client).missing_reason
            assert not stored.exists()
            assert put_gate(node, gate) is True
            eventually(lambda: held(client).source == "node")


def test_a_stale_gate_beside_the_profile_gives_way_to_the_nodes(model, own_path, gate, tmp_path):
    write_whole(gate_file.beside(own_path), gate_file.dump(make_gate(model.fingerprint, "0e" * 32)))
    with node_at(0, tmp_path) as node:
        with gated(model, node, profile=str(own_path)) as client:
            assert "stale" in held(client).missing_reason
        put_gate(node, gate)
        with gated(model, node, profile=str(own_path)) as client:
            assert held(client).source == "node"


def test_no_gate_is_asked_for_where_none_is_wanted(model, own_path, gate, tmp_path):
    with node_at(0, tmp_path) as node:
        put_gate(node, gate)
        with gated(model, node, profile=str(own_path), gate="") as client:
            assert held(client).missing_reason == "router.gate is empty"
            list(client.prefetch([DOCUMENT]))
            assert used(client) == (0, "no_gate")
