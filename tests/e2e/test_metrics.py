"""Metrics of a real router and a real node after a load: all that is declared, nothing else, and the right sums."""

import time
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document
from kvquilt_cache_node.metrics.collecting import METRICS as OF_NODES
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.opening_sealed import create_key
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_router.engine.model import prepare
from kvquilt_router.metrics.collecting import GATES
from kvquilt_router.metrics.collecting import METRICS as OF_ROUTERS
from kvquilt_router.profiles import write_whole
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.metrics.names import PROCESS
from kvquilt_rpc.security import ServerSecurity
from tests.metrics import metrics_port, scrape
from tests.router.families import SUPPORTED, tiny
from tests.router.profiles.calls import calibrated
from tests.rpc.certificates import Authority, Signer
from tests.stack import eventually, in_thread, node_process, router_only

RNG = np.random.default_rng(0)
PREFIX, FIRST, SECOND, WARM = (RNG.integers(3, 500, n).tolist() for n in (9, 80, 70, 60))
QUESTION = [7, 8, 9, 10]
NAME = "a private document"
MASTER = "a master secret for tests, long enough"
REPORTED = {
    "kvquilt_router_fetched_bytes_total": "fetched_bytes",
}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["gemma3"]), None, "tiny")


def gated(model, folder):
    """A profile, and a gate made by hand beside it."""
    path = folder / "tiny.safetensors"
    write_whole(path, calibrated(model))
    digest = profile_file.digest(path.read_bytes())
    points = [
        GatePoint("none", 0.0, context, "high", 8, bound / 10, bound, 0.9, 0.05)
        for context, bound in (("exact", 0.04), ("warm", 60.0), ("pair", 60.0), ("base", 60.0))
    ]
    gate = Gate(model.fingerprint, digest, 16, 0.95, 0.9, "made by hand", tuple(points))
    write_whole(folder / "gate.json", gate_file.dump(gate))
    return {"profile": str(path), "gate": str(folder / "gate.json"), "ungated": False, "max_kl": 90.0}


def everything_on(model, folder):
    """Settings with which a node and a router have all that metrics tell of."""
    authority, signer = Authority.new(folder / "pem"), Signer.new(folder / "key")
    server, own = authority.issue("server", "127.0.0.1"), authority.issue("router.example")
    (folder / "identities").write_text("router.example: {namespaces: ['*'], public_write: true}\n")
    token = folder / "token"
    token.write_text(signer.token("router", "*", public_write=True))
    files = {"tls_cert": server.cert, "tls_key": server.key}
    security = ServerSecurity(**files, tls_client_ca=authority.pem, token_key=signer.public)
    node = {
        "security": security,
        "encryption_key": create_key(),
        "hot_store": "memory",
        "memory_bytes": 1 << 20,
        "write_mode": "back",
        "namespaces": {"team": {"floor": 1 << 20, "cap": 1 << 26}},
    }
    router = {
        **gated(model, folder),
        "security": ServerSecurity(**files, token_key=signer.public),
        "master_secret": MASTER,
        "audit_share": 1.0,
        "access_log": folder / "log",
        "access_log_seconds": 0.05,
        "node_credentials": Credentials(tls_ca=authority.pem, tls_cert=own.cert, tls_key=own.key, token_file=token),
    }
    caller = Credentials(tls_ca=authority.pem, token=signer.token("a", "team", "public"))
    return node, router, caller


def pair(model, folder, node, router):
    """Both in this process; yields the router's address and the ports of the two pages."""
    ports = metrics_port(), metrics_port()

    @asynccontextmanager
    async def running():
        settings = NodeSettings(port=0, path=folder, fsync=False, drain_seconds=5, metrics_port=ports[0], **node)
        async with running_node(settings) as address:
            own = {"port": 0, "nodes": address, "drain_seconds": 5, "metrics_port": ports[1]}
            async with running_router(RouterSettings(**own, **router), model) as router_address:
                yield router_address, *ports

    return in_thread(running)


def load(client):
    """Prefetch, blend what is stored and what is not, plan, and load an exact head."""
    documents = [Document(NAME, FIRST), Document("second", SECOND)]
    assert not any(item.failed for item in client.prefetch(documents, shared_prefix=PREFIX, warm_up=[WARM]))
    prompts = ([SECOND, FIRST, QUESTION], [WARM, FIRST, QUESTION], [FIRST, QUESTION])
    return [client.blend(prompt, shared_prefix=PREFIX).report for prompt in prompts]


def test_after_a_load_all_that_is_declared_is_exported_and_nothing_else(model, tmp_path):
    node, router, caller = everything_on(model, tmp_path)
    with (
        pair(model, tmp_path / "store", node, router) as (address, of_node, of_router),
        Client(address, caller) as client,
    ):
        load(client)
        eventually(lambda: scrape(of_router).total("kvquilt_router_audits_total") > 0)
        eventually(lambda: scrape(of_router).total("kvquilt_router_access_log_requests_total", outcome="written") > 0)
        pages = [(scrape(of_node), OF_NODES), (scrape(of_router), OF_ROUTERS)]
    for page, declared in pages:
        names = {metric.name: metric for metric in declared}
        assert {name: kind for name, kind in page.types.items() if name not in PROCESS} == {
            name: metric.kind.value for name, metric in names.items()
        }
        kept = {
            "kvquilt_slots_in_use",
            "kvquilt_slots_limit",
            "kvquilt_slots_waiting",
        }
        missing = names.keys() - page.exported
        assert missing <= (kept if declared is OF_NODES else set()), missing
        assert page.exported <= names.keys() | set(PROCESS)
        for name, labels in page.values:
            metric = names.get(name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count"))
            if metric is not None:
                assert {label for label, _ in labels} - {"le"} == set(metric.labels), name
    (seen, _), (routers, _) = pages
    day = 86400
    for page, roles in ((seen, {"server", "client_ca"}), (routers, {"server", "node_ca", "node_client"})):
        assert page.labels("kvquilt_certificate_expiry_timestamp_seconds", "role") == roles
        assert page.value("kvquilt_certificate_expiry_timestamp_seconds", role="server") > time.time() + day
        assert page.value("kvquilt_token_keys") == 1
    own = {"role": "nodes", "tenant": ""}
    for page, labels in (
        (seen, {"role": "callers", "tenant": "*"}),
        (routers, own),
        (routers, {"role": "callers", "tenant": "team"}),
    ):
        assert 0 < page.value("kvquilt_token_expiry_timestamp_seconds", **labels) - time.time() <= 3600
        assert page.value("kvquilt_token_lifetime_seconds", **labels) == 3600
    assert seen.value("kvquilt_node_encryption_master_keys") == 1
    assert seen.value("kvquilt_node_encryption_namespace_keys") >= 1
    assert [state for state in GATES if routers.value("kvquilt_router_gate", model="tiny", state=state)] == ["open"]
    assert routers.value("kvquilt_router_gate_points", model="tiny", state="in_force") == 4
    assert routers.total("kvquilt_router_audited_kl_nats_count") == routers.total("kvquilt_router_audits_total")
    assert routers.total("kvquilt_router_predicted_kl_nats_count", policy="none", level="high") > 0
    assert routers.labels("kvquilt_router_tokens_total", "tenant") == {"public", "team", "other"}
    assert routers.total("kvquilt_router_node_up") == routers.value("kvquilt_router_nodes") == 1
    text = " ".join(f"{name} {labels}" for page, _ in pages for name, labels in page.values)
    for secret in (MASTER, router["node_credentials"].token_file.read_text(), node["encryption_key"], NAME):
        assert secret not in text


def test_sums_are_those_of_the_reports_and_a_restart_begins_at_0(model, tmp_path):
    port = metrics_port()
    flags = ("--set", f"node.metrics_port={port}")
    own = metrics_port()
    with node_process(tmp_path, *flags) as (process, node), router_only(model, node, metrics_port=own) as address:
        with Client(address) as client:
            reports = load(client)
            eventually(lambda: settled(scrape(own)))
            reports += [client.blend([SECOND, FIRST, QUESTION], shared_prefix=PREFIX).report]
            eventually(lambda: settled(scrape(own)))
            counters = client.status().counters
        page, of_node = scrape(own), scrape(port)
        for kind in ("exact", "reused", "recomputed", "computed"):
            expected = sum(getattr(report, f"tokens_{kind}") for report in reports)
            assert page.total("kvquilt_router_tokens_total", kind=kind) == expected == counters[f"tokens_{kind}"], kind
        assert page.total("kvquilt_router_requests_total") == len(reports)
        assert page.value("kvquilt_router_sent_total", extent="prompt") == len(reports)
        assert page.total("kvquilt_router_fetched_bytes_total") == sum(report.fetched_bytes for report in reports)
        net = page.total("kvquilt_router_saved_seconds_total") - page.total("kvquilt_router_lost_seconds_total")
        known = [report.saved_seconds for report in reports if report.saved_seconds is not None]
        assert net == pytest.approx(sum(known), abs=1e-3 * len(reports))
        chunks = [chunk for report in reports for chunk in report.chunks]
        for context, count in Counter(chunk.context for chunk in chunks if chunk.context).items():
            assert page.value("kvquilt_router_chunk_hits_total", context=context) == count, context
        for reason, count in Counter(chunk.miss_reason for chunk in chunks if chunk.miss_reason).items():
            assert page.value("kvquilt_router_chunk_misses_total", reason=reason) == count, reason
        total = page.value("kvquilt_router_request_seconds_sum", extent="prompt")
        assert total == pytest.approx(sum(report.seconds["total"] for report in reports))
        for stage in ("fetch", "select", "compute"):
            took = page.value("kvquilt_router_stage_seconds_sum", stage=stage)
            assert took == pytest.approx(sum(report.seconds[stage] for report in reports)), stage
        assert page.value("kvquilt_router_first_layer_seconds_count", extent="prompt") == len(reports)
        assert page.value("kvquilt_calls_total", method="Blend", code="OK") == len(reports)
        assert of_node.value("kvquilt_node_puts_total", outcome="stored") == puts(page) > 0
        assert page.total("kvquilt_router_written_bytes_total") == of_node.value(
            "kvquilt_node_tier_bytes", tier="store"
        )
        process.kill()
        process.wait(30)
        with node_process(tmp_path, *flags):
            after = scrape(port)
    assert after.value("kvquilt_node_puts_total", outcome="stored") == 0
    assert after.value("kvquilt_node_objects") == of_node.value("kvquilt_node_objects") > 0, "what is stored is there"


def puts(page):
    """Objects that nodes took from the router."""
    return page.value("kvquilt_router_node_call_seconds_count", operation="put")


def settled(page):
    """Whether the background has nothing to do, and has stored something."""
    encoded = page.value("kvquilt_codec_seconds_count", operation="encode")
    stored = page.value("kvquilt_router_background_chunks_total", outcome="stored")
    return not page.value("kvquilt_router_waiting", queue="background") and encoded == puts(page) and stored
