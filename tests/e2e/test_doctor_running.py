"""`kvquilt doctor` of routers and nodes that run: right ones pass, and each check fails for a real cause."""

import time
from dataclasses import replace

import pytest

from kvquilt import AsyncClient, Client, Document
from kvquilt import checks as vocabulary
from kvquilt.doctoring import Part, Patient, diagnosed
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.profile import file
from kvquilt_router.engine.model import prepare
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests.codec.profiles import make_profile
from tests.e2e.doctoring import doctor, outcomes, settings
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import DEADLINE, Authority, Signer, tls
from tests.stack import in_thread, node_process, router_only

MASTER = "a master secret for tests, long enough"


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes; their addresses."""
    with (
        in_thread(lambda: running_node(NodeSettings(port=0, path=tmp_path_factory.mktemp("a"), fsync=False))) as first,
        in_thread(lambda: running_node(NodeSettings(port=0, path=tmp_path_factory.mktemp("b"), fsync=False))) as second,
    ):
        yield first, second


@pytest.fixture(scope="module")
def router(model, nodes):
    with router_only(model, nodes, ungated=False) as address:
        yield address


def called(router, *nodes, path):
    words = ["--router", router, *settings(node__path=path)]
    for node in nodes:
        words += ["--node", node]
    return words


def test_a_right_installation_with_tls_and_tokens_passes(model, tmp_path):
    authority, signer = Authority.new(tmp_path / "ca"), Signer.new(tmp_path / "key")
    security = tls(authority, token_key=signer.public)
    security.tls_key.chmod(0o600)
    token = tmp_path / "operator"
    token.write_text(signer.token("operator", "*", public_write=True))
    token.chmod(0o600)
    known = Credentials(tls_ca=authority.pem, token_file=token)
    node = NodeSettings(port=0, path=tmp_path / "node", security=security)
    with (
        in_thread(lambda: running_node(node)) as address,
        router_only(model, [address], security=security, node_credentials=known, master_secret=MASTER) as router,
    ):
        flags = called(router, address, path=tmp_path / "node")
        for part in ("node", "router"):
            flags += settings(**{f"{part}__security__{k}": getattr(security, k) for k in ("tls_cert", "tls_key")})
            flags += settings(**{f"{part}__security__token_key": signer.public})
        for part in ("client__credentials", "router__node_credentials"):
            flags += settings(**{f"{part}__tls_ca": authority.pem, f"{part}__token_file": token})
        checks = doctor(*flags)
        assert outcomes(checks, "failed") == {"gate"}, "router.ungated, of tests of the mechanism"
        assert outcomes(checks, "skipped") == {"redis-rights", "redis-settings", "object-storage", "ring"}
        assert outcomes(checks, "warned") == {"profile"}
        assert "1 days left" not in checks["tls"]["got"]
        stranger = tmp_path / "stranger"
        stranger.write_text(Signer.new(tmp_path / "other").token("stranger", "*"))
        stranger.chmod(0o600)
        flags += settings(client__credentials__token_file=stranger, router__node_credentials__token_file=stranger)
        checks = doctor(*flags, code=1)
        assert {"router", "nodes"} <= outcomes(checks, "failed")
        assert "token_signature" in checks["router"]["got"]
        assert "token_signature" in checks["nodes"]["got"]


def test_a_router_without_a_gate_is_told_of(router, nodes, tmp_path):
    checks = doctor(*called(router, *nodes, path=tmp_path), code=0)
    assert outcomes(checks, "warned") == {"profile", "gate"}
    assert "calibrate" in checks["gate"]["advice"]


def test_a_node_that_is_dead(router, nodes, tmp_path):
    with node_process(tmp_path / "dead") as (process, dead):
        process.kill()
        process.wait(30)
        checks = doctor(*called(router, *nodes, dead, path=tmp_path), code=1)
    assert outcomes(checks, "failed") == {"addresses", "nodes"}
    assert all(dead in checks[name]["got"] for name in ("addresses", "nodes"))
    assert not any(node in checks["nodes"]["got"] for node in nodes)


def test_a_router_that_is_dead(nodes, tmp_path):
    checks = doctor(*called("127.0.0.1:1", *nodes, path=tmp_path), code=1)
    assert outcomes(checks, "failed") == {"addresses", "router"}
    assert "kvquilt serve" in checks["router"]["advice"]
    assert {"profile", "gate"} <= outcomes(checks, "skipped")
    assert doctor(*called("127.0.0.1:1", *nodes, path=tmp_path), "--part", "router", code=0)


def test_another_version(router, nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "VERSION", "9.9.9")
    checks = doctor(*called(router, *nodes, path=tmp_path), code=1)
    assert outcomes(checks, "failed") == {"versions"}
    assert "0.1.0" in checks["versions"]["got"]


@pytest.mark.parametrize(("ahead", "outcome"), [(0.0, "passed"), (3.0, "warned"), (-30.0, "failed")])
async def test_a_clock_that_is_wrong(router, nodes, ahead, outcome):
    patient = Patient(NodeSettings(), RouterSettings(nodes=nodes), router, Credentials())
    patient.parts = frozenset({Part.ROUTER, Part.CLIENT})
    patient.clock = lambda: time.time() - ahead
    found = await diagnosed(patient)
    (check,) = [check for check in found.checks if check.name == "clocks"]
    assert check.outcome == outcome, check
    assert f"router {ahead:+.1f} s" in check.got or not ahead
    assert found.ok == (outcome != "failed")
    if outcome == "failed":
        assert "tokens" in check.got


def test_one_node_under_two_names(router, nodes, tmp_path):
    first, _ = nodes
    again = first.replace("127.0.0.1", "localhost")
    checks = doctor(*called(router, first, again, path=tmp_path), code=1)
    assert outcomes(checks, "failed") == {"ring"}
    assert first in checks["ring"]["got"]
    assert again in checks["ring"]["got"]


def test_nodes_that_do_not_share_a_store_though_it_is_set(router, nodes, tmp_path):
    flags = called(router, *nodes, path=tmp_path)
    checks = doctor(*flags, *settings(router__shared_store="true"), code=1)
    assert outcomes(checks, "failed") == {"ring"}
    assert "router.shared_store" in checks["ring"]["advice"]


def test_chunks_that_are_on_one_node_only(model, tmp_path):
    with (
        in_thread(lambda: running_node(NodeSettings(port=0, path=tmp_path / "a", fsync=False))) as first,
        in_thread(lambda: running_node(NodeSettings(port=0, path=tmp_path / "b", fsync=False))) as second,
    ):
        document = Document("long", list(range(3, 483)))
        options = {"chunk_tokens": 8, "warm_up_passages": 0}
        with router_only(model, [first], **options) as alone, Client(alone) as client:
            (done,) = client.prefetch([document], shared_prefix=[], level="lossless")
            assert done.stored > 50
        with router_only(model, [first, second], **options) as both:
            check = doctor(*called(both, first, second, path=tmp_path))["ring"]
            assert check["outcome"] == "warned", check
            assert f"{second} 0 of" in check["got"]
            weights = doctor(*called(both, f"{first}=1000", f"{second}=0.1", path=tmp_path))["ring"]
            assert weights["outcome"] == "passed", "as the weights say"


def test_a_profile_that_the_nodes_do_not_have(model, tmp_path):
    data = file.dump(replace(make_profile(), model_fingerprint=model.fingerprint))
    digest = file.digest(data)
    with (
        in_thread(lambda: running_node(NodeSettings(port=0, path=tmp_path / "a", fsync=False))) as address,
        router_only(model, [address], profile=digest) as router,
    ):
        checks = doctor(*called(router, address, path=tmp_path), code=1)
        assert "profile" in outcomes(checks, "failed"), checks["profile"]
        assert "profile put" in checks["profile"]["advice"]


def test_a_node_that_lets_nobody_in_is_named(nodes, router, tmp_path):
    signer = Signer.new(tmp_path / "key")
    closed = NodeSettings(port=0, store="memory", security=ServerSecurity(token_key=signer.public))
    with in_thread(lambda: running_node(closed)) as address:
        checks = doctor(*called(router, *nodes, address, path=tmp_path), code=1)
        assert outcomes(checks, "failed") == {"nodes"}
        assert "token_missing" in checks["nodes"]["got"]


async def test_clocks_are_told_by_both_services(router, nodes):
    before = time.time()
    async with AsyncClient(router) as client:
        status = await client.status()
    node = NodeClient(nodes[0])
    told = await node.status(deadline=DEADLINE)
    await node.close()
    assert before - 1 < status.unix_seconds < time.time() + 1
    assert before - 1 < told.unix_seconds < time.time() + 1
