"""The alert of audits, fired by a gate that promises too much; what alerts and dashboards ask for, on real pages."""

import asyncio
from pathlib import Path

import grpc
import promql_parser as promql
import pytest

from drills.tiny_model import saved
from kvquilt import Client, Document
from kvquilt_cache_node.metrics.meter import OUTCOMES
from kvquilt_codec.gate import file as gate_file
from kvquilt_router.profiles import write_whole
from kvquilt_rpc.security import Credentials
from tests import servers
from tests.alerts.exported import Values, scraped
from tests.alerts.labelled import TARGET
from tests.alerts.rules import alerts, expressions, selectors
from tests.alerts.test_fired_by_nodes import BY_NODES
from tests.alerts.test_fired_by_routers import BY_ROUTERS
from tests.alerts.watching import Watch, Watched, watch
from tests.e2e.gated import FIRST, PREFIX, QUESTION, SECOND, WARM, gate_of, point
from tests.router.profiles.calls import calibrated
from tests.rpc.certificates import Authority, Signer
from tests.servers.prometheus import PROMETHEUS

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus")

BY_AUDITS = {"KvquiltDivergenceAboveGate"}
"""Alerts that this file fires."""

RARE = {"code": {code.name for code in grpc.StatusCode}, "outcome": set(OUTCOMES)}
"""Values of labels that are on the page once they have occurred, by label."""
ELSEWHERE = {"up"}
"""What Prometheus makes itself."""


async def test_a_gate_that_promises_too_much_fires_its_alert_and_all_that_is_asked_for_is_exported(
    tmp_path: Path,
) -> None:
    folder, profile, gate = (tmp_path / name for name in ("model", "tiny.safetensors", "gate.json"))
    model = await asyncio.to_thread(saved, folder)
    write_whole(profile, await asyncio.to_thread(calibrated, model))
    contexts = [("base", 1e-9), ("warm", 1e-9)]
    lies = gate_of(model, profile, *(point("none", 0.0, context, upper, 0.05) for context, upper in contexts))
    honest = gate_of(model, profile, *(point("none", 0.0, context, 50.0, 0.05) for context, _ in contexts))
    authority = Authority.new(tmp_path / "pem")
    own = authority.issue("router", servers.HOST)
    token = tmp_path / "token"
    token.write_text(Signer.new(tmp_path / "tokens.key").token("router", "*"))
    settings = (
        f"router.profile={profile}",
        f"router.gate={gate}",
        f"router.security.tls_cert={own.cert}",
        f"router.security.tls_key={own.key}",
        f"router.node_credentials.token_file={token}",
        "router.audit_share=1.0",
        "router.max_kl=60",
        "router.background=false",
        "router.threads=1",
    )
    with watch(tmp_path) as watched:
        write_whole(gate, gate_file.dump(lies))
        pages = await asyncio.to_thread(_nodes, watched)
        router = await asyncio.to_thread(watched.router, folder, *settings)
        with Client(router.target, credentials=Credentials(tls_ca=authority.pem)) as client:
            await asyncio.to_thread(_blended, client, 3)
            said = await asyncio.to_thread(watched.fires, "KvquiltDivergenceAboveGate")
            assert "have withdrawn" in said["description"]
            found = await asyncio.to_thread(scraped, [router.metrics, *pages])
        write_whole(gate, gate_file.dump(honest))
        await asyncio.to_thread(router.started_with)
        with Client(router.target, credentials=Credentials(tls_ca=authority.pem)) as client:
            await asyncio.to_thread(_blended, client, 1)
            await asyncio.to_thread(watched.ends, "KvquiltDivergenceAboveGate")
        assert watched.fired == BY_AUDITS
        assert watched.prometheus.problems() == []
    assert [problem for expression in expressions() for problem in _missing(expression.text, found)] == []
    assert _missing('rate(kvquilt_router_tokens_total{kind!="computd"}[5m])', found), "a value with a typing error"


def test_every_alert_is_fired_by_a_fault() -> None:
    assert alerts().keys() == BY_NODES | BY_ROUTERS | BY_AUDITS


def _nodes(watched: Watch) -> list[str]:
    """Pages of nodes that between them have every tier; the first one has all objects."""
    redis = watched.place.valkey()
    quotas = 'node.namespaces={"public": {"cap": "1GiB"}}'
    plain: Watched = watched.node(quotas)
    settings = watched.place.redis_settings(redis.url)
    tiers = ("node.write_mode=back", "node.hot_store=file", "node.hot_capacity=16MiB")
    other = watched.node(*settings, *tiers)
    del watched.place.targets[1:]  # the router's nodes
    return [plain.metrics, other.metrics]


def _blended(client: Client, times: int) -> None:
    named = [Document(f"document {number}", content) for number, content in enumerate((FIRST, SECOND))]
    assert not any(done.failed for done in client.prefetch(named, shared_prefix=PREFIX, warm_up=[WARM]))
    for _ in range(times):
        client.blend([SECOND, FIRST, QUESTION], shared_prefix=PREFIX)


def _missing(expression: str, found: Values) -> list[str]:
    """Metrics, and values of labels, that an expression asks for and no page has."""
    problems = []
    for selector in selectors(expression):
        if selector.name in ELSEWHERE:
            continue
        if selector.name not in found:
            problems.append(f"no page has {selector.name}")
        for matcher in selector.matchers.matchers:
            if matcher.name in TARGET:
                continue
            known = found[selector.name][matcher.name] | RARE.get(matcher.name, set())
            several = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
            values = set(matcher.value.split("|") if several else [matcher.value]) - {".*"}
            problems += [f"no {selector.name} has {matcher.name}={value}" for value in values - known]
    return problems
