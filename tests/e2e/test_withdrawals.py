"""A withdrawn point stays withdrawn: for other routers, after restarts, until an operator lifts it."""

import contextlib

import pytest

from kvquilt import Client, Credentials
from kvquilt.checks import SkippedError
from kvquilt.errors import BadRequestError, NotFoundError, PermissionDeniedError
from kvquilt.verifying.reaching import gate_of as verified
from kvquilt_codec.gate import file as gate_file
from kvquilt_router.engine.model import prepare
from kvquilt_router.profiles import write_whole
from tests.e2e.commands import answer, kvquilt
from tests.e2e.gated import blend, counters, gate_of, point, prefetch
from tests.router.families import SUPPORTED, tiny
from tests.router.profiles.calls import free_port, node_at
from tests.rpc.certificates import Signer
from tests.stack import eventually, router_only, unheard

POINT = ("none", 0.0, "warm", "high")


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["gemma3"]), None, "tiny")


@pytest.fixture
def routed(model, profile, tmp_path):
    """Opens routers of a node, by default with a gate that promises too much."""
    path = tmp_path / "gate.json"
    lies = gate_of(model, profile, point("none", 0.0, "warm", 1e-9, 0.05))
    write_whole(path, gate_file.dump(lies))

    @contextlib.contextmanager
    def opened(node, *, gate=path, **settings):
        options = {"ungated": False, "background": False, "audit_share": 0.0, "profile": str(profile)}
        with router_only(model, node, **{**options, "gate": str(gate), **settings}) as router:
            yield router

    return opened


def entry(client):
    return next(entry for entry in client.status().models[0].gate.points if entry.context == "warm")


def disprove(client):
    """Blend, and wait for audits, until the point is withdrawn."""
    eventually(lambda: not unheard(client))
    prefetch(client)
    for audits in (1, 2):
        assert blend(client).report.policy == "none"
        eventually(lambda audits=audits: counters(client)["audits"] == audits)
    eventually(lambda: entry(client).withdrawn)


def is_refused(client):
    return blend(client).report.gate_refusal == "withdrawn"


def test_what_one_router_withdraws_no_router_uses_and_no_restart_forgets(model, profile, routed, tmp_path):
    with node_at(0, tmp_path / "store") as node:
        with routed(node, audit_share=1.0) as first, routed(node) as second, Client(second) as other:
            with Client(first) as client:
                disprove(client)
                assert counters(client)["points_withdrawn"] == 1
            eventually(lambda: entry(other).withdrawn)
            assert is_refused(other)
            assert (entry(other).audits, entry(other).audits_exceeded) == (2, 2), "audits of all routers"
            assert counters(other)["points_withdrawn"] == 0, "it was not this one that found it"
        with routed(node) as again, Client(again) as client:
            assert blend(client).report.tokens_reused == 0, "not even the first request"
            eventually(lambda: entry(client).withdrawn)
            assert is_refused(client)
        anew = tmp_path / "anew.json"
        write_whole(anew, gate_file.dump(gate_of(model, profile, point("none", 0.0, "warm", 2e-9, 0.05))))
        with routed(node, gate=anew) as router, Client(router) as client:
            eventually(lambda client=client: not unheard(client))
            assert (entry(client).withdrawn, entry(client).audits) == (False, 0), "another gate inherits nothing"
            assert blend(client).report.policy == "none"
    with node_at(0, tmp_path / "store") as node, routed(node) as router, Client(router) as client:
        assert blend(client).report.tokens_reused == 0
        eventually(lambda: entry(client).withdrawn)  # nor does a restart of the node


def test_a_lift_reaches_all_routers_and_holds_until_audits_disprove_the_point_again(routed, tmp_path):
    with (
        node_at(0, tmp_path / "store") as node,
        routed(node, audit_share=1.0) as first,
        routed(node) as second,
        Client(first) as client,
        Client(second) as other,
    ):
        with pytest.raises(BadRequestError, match="is in force"):
            client.lift(*POINT)
        with pytest.raises(NotFoundError, match="kvquilt gate show"):
            client.lift("none", 0.5, "warm", "high")
        disprove(client)
        eventually(lambda: entry(other).withdrawn)
        report = other.lift(*POINT)
        assert (report.nodes_stored, report.nodes, report.unstored_reason) == (1, 1, "")
        assert (report.point.withdrawn, report.point.lifts, report.point.audits) == (False, 1, 0)
        assert blend(other).report.policy == "none"
        eventually(lambda: entry(client).lifts == 1)
        assert not entry(client).withdrawn
        with routed(node) as third, Client(third) as new:
            eventually(lambda: not unheard(new))
            assert (entry(new).withdrawn, entry(new).lifts) == (False, 1)
        for _ in range(2):
            blend(client)
        eventually(lambda: entry(other).withdrawn)
        assert entry(other).lifts == 1
        ((shown,),) = answer("gate", "show", "--router", second)
        assert [found["withdrawn"] for found in shown["gate"]["points"] if found["context"] == "warm"] == [True]
        lines = kvquilt("gate", "show", "--router", second).stdout.splitlines()
        assert [line.split() for line in lines if "warm" in line] == [
            ["none:0", "warm", "high", "1.00e-09", "2", "of", "2", "1", "WITHDRAWN"]
        ]
        (done,) = answer("gate", "lift", "none:0", "warm", "high", "--router", second)
        assert (done["point"]["lifts"], done["nodes_stored"], done["unstored_reason"]) == (2, 1, "")
        kvquilt("gate", "lift", "none:0", "warm", "high", "--router", second, code=2)
        eventually(lambda: entry(client).lifts == 2)


def test_a_router_whose_node_is_down_blends_nothing_until_it_heard_what_was_withdrawn(routed, tmp_path):
    port = free_port()
    node = f"127.0.0.1:{port}"
    with node_at(port, tmp_path / "store"), routed(node, audit_share=1.0) as router, Client(router) as client:
        disprove(client)
    with routed(node, stat_deadline=10) as router, Client(router) as client:
        status = client.status()
        assert "no node has told" in status.models[0].gate.missing_reason
        with pytest.raises(SkippedError, match="not used") as skipped:
            verified(status, status.models[0])
        assert "calibrate" not in skipped.value.advice
        kv = blend(client)
        assert kv.report.tokens_reused == 0
        assert counters(client)["audits_unshared"] > 0
        with node_at(port, tmp_path / "store"):
            eventually(lambda: not client.status().models[0].gate.missing_reason)
            eventually(lambda: is_refused(client))
            assert counters(client)["blends_refused_withdrawn"] > 0


def test_a_router_keeps_what_it_knows_and_tells_a_node_that_lost_it(routed, tmp_path):
    port = free_port()
    node = f"127.0.0.1:{port}"
    with contextlib.ExitStack() as first:
        first.enter_context(node_at(port, tmp_path / "store", "memory"))
        with routed(node, audit_share=1.0) as router, Client(router) as client:
            disprove(client)
            first.close()
            assert entry(client).withdrawn
            with node_at(port, tmp_path / "store", "memory"):

                def told():
                    with routed(node) as other, Client(other) as asked:
                        eventually(lambda: not unheard(asked))
                        return entry(asked).withdrawn

                eventually(told)


def test_only_operators_lift(routed, tmp_path):
    signer = Signer.new(tmp_path / "tokens.key")
    settings = {"security": {"token_key": signer.public}, "master_secret": "s" * 40}
    tenant = Credentials(token=signer.token("tenant", "a", public_write=True))
    operator = Credentials(token=signer.token("operator", "*"))
    with (
        node_at(0, tmp_path / "store") as node,
        routed(node, **settings) as router,
        Client(router, tenant) as denied,
        Client(router, operator) as client,
    ):
        with pytest.raises(PermissionDeniedError, match="operator"):
            denied.lift(*POINT)
        with pytest.raises(BadRequestError, match="is in force"):
            client.lift(*POINT)
