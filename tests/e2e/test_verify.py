"""`kvquilt verify` of real routers and nodes: right ones pass, and every check fails for a real cause."""

import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from kvquilt import AsyncClient, Client, Credentials, Document
from kvquilt import checks as vocabulary
from kvquilt.verifying import CHECKS, Options, Subject, verify
from kvquilt.verifying.run import CLEANED
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.node_client import NodeClient
from tests import servers
from tests.e2e.verifying import outcomes, verified
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Authority, Signer, tls
from tests.stack import blobs, eventually, in_thread, node_process, router_only, serve

MASTER = "a master secret for tests, long enough"
OTHERS = Document("somebody else's", np.random.default_rng(5).integers(260, 500, 300).tolist())
TIMED = {"computing", "engine", "exact-faster", "blended-faster"}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


async def checked(subject, *names):
    """The last of these checks, made one after the other."""
    subject.status = await subject.client.status()
    for name in names:
        found = await CHECKS[name](subject)
    return found.outcome


@pytest.fixture(scope="module")
def tenants(model, tmp_path_factory):
    """TLS, two tenants, two nodes that ask who calls; flags of an operator's, and of another tenant's, by namespace."""
    folder = tmp_path_factory.mktemp("tenants")
    authority, signer = Authority.new(folder / "ca"), Signer.new(folder / "key")
    security = tls(authority, token_key=signer.public)
    known = Credentials(tls_ca=authority.pem, token=signer.token("router", "*", public_write=True))
    settings = {"security": security, "master_secret": MASTER, "node_credentials": known, "ungated": False}
    node = {"port": 0, "security": security, "fsync": False}
    with (
        in_thread(lambda: running_node(NodeSettings(path=folder / "1", **node))) as first,
        in_thread(lambda: running_node(NodeSettings(path=folder / "2", **node))) as second,
        router_only(model, [first, second], **settings) as router,
    ):

        def token(name, *namespaces):
            path = folder / name
            path.write_text(signer.token(name, *namespaces))
            return path

        def flags(token_file, *named):
            words = [router, "--set", f"client.credentials.tls_ca={authority.pem}", "--repeats", "0"]
            words += ["--set", f"client.credentials.token_file={token_file}"]
            for one in named:
                words += ["--node", one]
            words += ["--set", f"router.node_credentials.tls_ca={authority.pem}"]
            return [*words, "--set", f"router.node_credentials.token_file={token('to-nodes', '*')}"]

        def calls(token_file):
            return Client(router, Credentials(tls_ca=authority.pem, token_file=token_file))

        yield token, flags, calls, (first, second)


def test_a_router_that_is_right_passes_and_nothing_is_left_or_touched(tenants):
    token, flags, calls, nodes = tenants
    operator, other = token("operator", "*"), token("other", "b")
    with calls(token("owner", "a")) as owner, calls(operator) as all_seeing:
        list(owner.prefetch([OTHERS], shared_prefix=[]))
        before = [(node.objects, node.used_bytes) for node in all_seeing.status().nodes]
        acting = ["--set", "client.credentials.namespace=a", "--other-token", other]
        checks, found = verified(*flags(operator, *nodes), *acting, code=0)
        assert outcomes(checks, "skipped") == {"gate", "restart", *TIMED}
        assert found["recommendation"] == "unknown"
        assert [(node.objects, node.used_bytes) for node in all_seeing.status().nodes] == before
        assert all(not chunk.miss_reason for chunk in owner.plan([OTHERS.content, [7]], shared_prefix=[]).chunks)


def test_a_tenant_that_may_not_see_all_is_told_what_was_not_checked(tenants):
    token, flags, _, _ = tenants
    checks, _ = verified(*flags(token("alone", "c")), code=0)
    missing = {"on-nodes", "isolation-text", "isolation-document", "isolation-key", "caps", "cap-refusal"}
    assert outcomes(checks, "skipped") == {"gate", "restart", *missing, *TIMED}
    assert all(checks[name]["advice"] for name in missing)


def test_two_identities_of_one_namespace_are_not_isolated(tenants):
    token, flags, _, nodes = tenants
    checks, _ = verified(*flags(token("one", "d"), *nodes), "--other-token", token("two", "d"), code=1)
    assert outcomes(checks, "failed") == {"isolation-text", "isolation-document", "isolation-key", "forgetting"}
    assert "namespace" in checks["isolation-text"]["advice"]
    assert checks[CLEANED]["outcome"] == "passed"


def test_wrong_credentials_are_the_one_failure(tenants, tmp_path):
    _, flags, _, _ = tenants
    stranger = tmp_path / "stranger"
    stranger.write_text(Signer.new(tmp_path / "key").token("stranger", "a"))
    checks, _ = verified(*flags(stranger), code=1)
    assert outcomes(checks, "failed") == {"allowed"}
    assert outcomes(checks, "passed") == {"reachable"}
    assert "token" in checks["allowed"]["got"]
    address = flags(stranger)[0]
    checks, _ = verified(address, code=1)
    assert "tls" in checks["reachable"]["got"].lower()


def test_nothing_running_says_what_to_start():
    checks, _ = verified("127.0.0.1:1", "--set", "client.deadline=2", code=1)
    assert outcomes(checks, "failed") == {"reachable", "allowed"}
    assert "kvquilt serve" in checks["reachable"]["advice"]


def test_a_node_that_is_down_and_stores_that_forget_with_a_restart_fail(model, tmp_path):
    with (
        node_process(tmp_path / "a", "--set", "node.store=memory") as (_, first),
        node_process(tmp_path / "b", "--set", "node.store=memory") as (victim, second),
        router_only(model, [first, second], health_seconds=0.1) as router,
        Client(router) as client,
    ):
        checks, _ = verified(router, "--repeats", "0", code=1)
        assert outcomes(checks, "failed") == {"gate", "restart"}, "of which one is router.ungated"
        assert "router.ungated" in checks["gate"]["advice"]
        victim.kill()
        eventually(lambda: not all(node.reachable for node in client.status().nodes))
        checks, _ = verified(router, "--repeats", "0", code=1)
        assert {"nodes", "restart"} <= outcomes(checks, "failed")
        assert second in checks["nodes"]["got"]


@pytest.mark.parametrize(("folder", "outcome"), [("a", "passed"), ("another", "failed")])
def test_what_a_restart_leaves_is_what_is_found(model, tmp_path, folder, outcome):
    with (
        node_process(tmp_path / "a") as (node, address),
        router_only(model, [address], health_seconds=0.1) as router,
    ):
        port = address.rpartition(":")[2]
        start = [sys.executable, "-m", "kvquilt", "node", "--port", port, "--data-dir", str(tmp_path / folder)]
        pid = tmp_path / "pid"
        command = f"kill -9 {node.pid}; nohup {shlex.join(start)} >/dev/null 2>&1 & echo $! > {pid}"
        try:
            checks, _ = verified(router, "--repeats", "0", "--restart-command", command, code=1)
        finally:
            subprocess.run(["kill", "-9", pid.read_text().strip()], check=False)
        assert checks["restart"]["outcome"] == outcome, checks["restart"]
        assert outcomes(checks, "failed") - {"restart"} <= {"gate", "forgetting"}


def test_a_restart_that_fails_is_shown(model, tmp_path):
    with serve(model, tmp_path) as router:
        checks, _ = verified(router, "--repeats", "0", "--restart-command", "echo no such unit; exit 3", code=1)
        assert "no such unit" in checks["restart"]["got"]


def test_a_store_without_room_is_said(model, tmp_path):
    with serve(model, tmp_path, capacity=4096) as router:
        checks, _ = verified(router, "--repeats", "0", code=1)
        assert outcomes(checks, "failed") == {"gate", "stores"}
        assert checks["hits"]["outcome"] == "skipped"


def test_more_bytes_than_a_capacity_are_seen(model, tmp_path):
    """Nodes of one store with different caps: what one may hold is beyond the other's."""
    with servers.valkey(tmp_path) as valkey:
        shared = {"port": 0, "store": "redis", "index": "redis", "redis_url": valkey.url, "eviction": "lru"}
        large, small = (
            NodeSettings(path=tmp_path / name, capacity=capacity, **shared)
            for name, capacity in (("large", 1 << 30), ("small", 1 << 16))
        )
        with (
            in_thread(lambda: running_node(small)) as first,
            in_thread(lambda: running_node(large)) as second,
            router_only(model, [second]) as router,
            Client(router) as client,
        ):
            list(client.prefetch([OTHERS], shared_prefix=[]))
            held = client.status().nodes[0].used_bytes
            with router_only(model, [first]) as misled:
                checks, _ = verified(misled, "--repeats", "0", code=1)
    assert outcomes(checks, "failed") == {"gate", "stores", "caps"}
    assert f"{held} of {1 << 16}" in checks["caps"]["got"]


def test_a_node_that_takes_any_size_is_seen(model, tmp_path):
    node = NodeSettings(port=0, path=tmp_path, max_object=1 << 63, put_bytes=1 << 63, fsync=False)
    with in_thread(lambda: running_node(node)) as address, router_only(model, [address]) as router:
        checks, _ = verified(router, "--node", address, "--repeats", "0", code=1)
        assert outcomes(checks, "failed") == {"gate", "cap-refusal"}


def test_another_version_is_seen(model, tmp_path, monkeypatch):
    with serve(model, tmp_path) as router:
        monkeypatch.setattr(vocabulary, "VERSION", "9.9.9")
        checks, _ = verified(router, "--repeats", "0", code=1)
        assert outcomes(checks, "failed") == {"gate", "versions"}
        assert "0.1.0" in checks["versions"]["got"]


async def test_what_is_damaged_or_gone_meanwhile_fails(model, tmp_path):
    with serve(model, tmp_path) as router:
        async with AsyncClient(router) as client:
            subject = Subject(router, Credentials(), client, Options(repeats=0))
            assert await checked(subject, "stores", "hits", "equal") == "passed"
            for blob in blobs(tmp_path):
                data = bytearray(blob.read_bytes())
                data[-100] ^= 1
                blob.write_bytes(data)
            assert await checked(subject, "equal") == "failed"
            await client.forget(*subject.documents)
            assert await checked(subject, "hits") == "failed"
            assert await checked(subject, "forgetting") == "failed"


async def test_damage_is_seen_where_it_is(model, tmp_path):
    with node_process(tmp_path) as (_, address), router_only(model, [address]) as router:
        node = NodeClient(address)
        async with AsyncClient(router) as client:
            subject = Subject(router, Credentials(), client, Options(repeats=0), nodes=[node])
            assert await checked(subject, "stores", "hits", "on-nodes") == "passed"
            blob = blobs(tmp_path)[0]
            blob.write_bytes(blob.read_bytes()[:-7])
            assert await checked(subject, "on-nodes") == "failed"
            await subject.clean()
        await node.close()


def test_an_interrupted_run_leaves_nothing_and_a_killed_one_only_until_its_ttl(model, tmp_path):
    with serve(model, tmp_path) as router, Client(router) as client:

        def objects():
            return client.status().nodes[0].objects

        def ended(by, *flags):
            command = [
                sys.executable,
                "-m",
                "kvquilt",
                "verify",
                router,
                "--repeats",
                "100",
                "--tokens",
                "2048",
                *flags,
            ]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                eventually(objects)
                process.send_signal(by)
                return process.wait(120)
            finally:
                process.kill()

        for by in (signal.SIGINT, signal.SIGTERM):
            assert ended(by) == 130
            assert objects() == 0
        ended(signal.SIGKILL, "--ttl", "4")
        eventually(lambda: objects() == 0)


async def test_every_check_has_a_row_whatever_is_wrong():
    async with AsyncClient("127.0.0.1:1") as client:
        found = await verify(Subject("127.0.0.1:1", Credentials(), client, Options(deadline=1.0)))
    assert [check.name for check in found.checks] == [*CHECKS, CLEANED]
    assert not found.ok
