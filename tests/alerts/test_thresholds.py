"""What each alert takes for well and what not: its thresholds and how long it waits, on series made for it.

promtool evaluates the rule file itself, every minute. That alerts fire for real faults is in `test_fired.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import yaml

from tests.alerts.rules import ALERTS, alerts
from tests.servers.prometheus import PROMTOOL, promtool

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")

ROUTER, NODE = 'job="kvquilt-router", instance="r"', 'job="kvquilt-node", instance="n"'
DAY = 24 * 60


@dataclass(frozen=True)
class Case:
    """What happens to an alert.

    Attributes:
        series: values of each minute, in promtool's notation.
        by: a label that tells alerts apart.
        firing: values of that label among the alerts that fire, by minute.
    """

    series: Mapping[str, str]
    by: str
    firing: Mapping[int, Sequence[str]]


CASES = {
    "KvquiltRequestsFailing": Case(
        {
            f'kvquilt_calls_total{{{ROUTER}, method="Blend", code="OK"}}': "0+100x60",
            f'kvquilt_calls_total{{{ROUTER}, method="Blend", code="INTERNAL"}}': "0+5x60",  # 4.8 %
            f'kvquilt_calls_total{{{ROUTER}, method="Plan", code="OK"}}': "0+100x60",
            f'kvquilt_calls_total{{{ROUTER}, method="Plan", code="UNKNOWN"}}': "0+6x60",  # 5.7 %
            f'kvquilt_calls_total{{{ROUTER}, method="Forget", code="UNAVAILABLE"}}': "0 0 0 0 0 0 0 3x53",  # too few
            f'kvquilt_calls_total{{{ROUTER}, method="Prefetch", code="INVALID_ARGUMENT"}}': "0+9x60",  # callers' fault
            f'kvquilt_calls_total{{{NODE}, method="Get", code="INTERNAL"}}': "0+9x60",  # not of a router
        },
        "method",
        {4: [], 20: ["Plan"]},
    ),
    "KvquiltRouterDown": Case(
        {
            f"up{{{ROUTER}}}": "1 1 0x20",
            'up{job="kvquilt-router", instance="s"}': "0 0 0 0 1x20",
            f"up{{{NODE}}}": "0x30",
        },
        "instance",
        {6: [], 8: ["r"]},
    ),
    "KvquiltNodeDown": Case(
        {f"up{{{NODE}}}": "1 1 0x20", 'up{job="kvquilt-node", instance="m"}': "1x30", f"up{{{ROUTER}}}": "0x30"},
        "instance",
        {6: [], 8: ["n"]},
    ),
    "KvquiltRequestsShed": Case(
        {
            f'kvquilt_calls_refused_total{{{ROUTER}, reason="limited"}}': "0+2x60",
            f'kvquilt_calls_total{{{ROUTER}, method="Blend", code="OK"}}': "0+100x60",
            f'kvquilt_calls_refused_total{{{NODE}, reason="shed"}}': "0+1x60",  # 0.99 %
            f'kvquilt_calls_refused_total{{{NODE}, reason="unauthenticated"}}': "0+50x60",
            f'kvquilt_calls_total{{{NODE}, method="Get", code="OK"}}': "0+101x60",
        },
        "job",
        {9: [], 30: ["kvquilt-router"]},
    ),
    "KvquiltHitRateDropped": Case(
        {
            # 80 % for a day, then 30 %; in the namespace b 80 %, then 50 %; in c too few requests to say.
            f'kvquilt_router_tokens_total{{{ROUTER}, namespace="a", tenant="t", kind="exact"}}': "0+80x1440 115200+30x120",
            f'kvquilt_router_tokens_total{{{ROUTER}, namespace="a", tenant="t", kind="computed"}}': "0+20x1440 28800+70x120",
            f'kvquilt_router_requests_total{{{ROUTER}, namespace="a", tenant="t"}}': "0+1x1560",
            f'kvquilt_router_tokens_total{{{ROUTER}, namespace="b", tenant="t", kind="reused"}}': "0+80x1440 115200+50x120",
            f'kvquilt_router_tokens_total{{{ROUTER}, namespace="b", tenant="t", kind="computed"}}': "0+20x1440 28800+50x120",
            f'kvquilt_router_requests_total{{{ROUTER}, namespace="b", tenant="t"}}': "0+1x1560",
            f'kvquilt_router_tokens_total{{{ROUTER}, namespace="c", tenant="t", kind="exact"}}': "0+80x1440 115200+0x120",
            f'kvquilt_router_tokens_total{{{ROUTER}, namespace="c", tenant="t", kind="computed"}}': "0+20x1440 28800+99x120",
            f'kvquilt_router_requests_total{{{ROUTER}, namespace="c", tenant="t"}}': "0+0.5x1560",
        },
        "namespace",
        {DAY: [], DAY + 60: ["a"]},
    ),
    "KvquiltNotWorthIt": Case(
        {
            f'kvquilt_router_lost_seconds_total{{{ROUTER}, namespace="a", tenant="t"}}': "0+2x300",
            f'kvquilt_router_saved_seconds_total{{{ROUTER}, namespace="a", tenant="t"}}': "0+1x300",
            f'kvquilt_router_lost_seconds_total{{{ROUTER}, namespace="b", tenant="t"}}': "0+1x300",
            f'kvquilt_router_saved_seconds_total{{{ROUTER}, namespace="b", tenant="t"}}': "0+2x300",
            # Of nobody's requests nothing is said.
            f'kvquilt_router_lost_seconds_total{{{ROUTER}, namespace="c", tenant="t"}}': "0x300",
            f'kvquilt_router_saved_seconds_total{{{ROUTER}, namespace="c", tenant="t"}}': "0x300",
        },
        "namespace",
        {60: [], 130: ["a"]},
    ),
    "KvquiltDivergenceAboveGate": Case(
        {
            f'kvquilt_router_gate_points{{{ROUTER}, model="m", state="withdrawn"}}': "0x5 1x10 0x10",
            # A router hears of it from another one: that is one alert, not two.
            'kvquilt_router_gate_points{job="kvquilt-router", instance="s", model="m", state="withdrawn"}': "0x6 1x9 0x10",
            f'kvquilt_router_gate_points{{{ROUTER}, model="m", state="open"}}': "5x30",
        },
        "model",
        {4: [], 8: ["m"], 20: []},
    ),
    "KvquiltBreakerOpen": Case(
        {
            f'kvquilt_router_node_breaker{{{ROUTER}, cache_node="gone", state="closed"}}': "1x10 0x40",
            f'kvquilt_router_node_breaker{{{ROUTER}, cache_node="gone", state="open"}}': "0x10 1x40",
            f'kvquilt_router_node_breaker{{{ROUTER}, cache_node="flaps", state="closed"}}': "1 1 0 1 1 0 1 1 0 1 1 0 1x38",
        },
        "cache_node",
        {14: [], 30: ["gone"]},
    ),
    "KvquiltStoreUnreachable": Case(
        {
            f'kvquilt_node_store_operations_total{{{NODE}, tier="store", operation="read", outcome="ok"}}': "0+10x60",
            f'kvquilt_node_store_operations_total{{{NODE}, tier="store", operation="read", outcome="not_found"}}': "0+90x60",
            f'kvquilt_node_store_operations_total{{{NODE}, tier="store", operation="read", outcome="deadline"}}': "0+99x60",
            f'kvquilt_node_store_operations_total{{{NODE}, tier="index", operation="read", outcome="ok"}}': "0+10x60",
            f'kvquilt_node_store_operations_total{{{NODE}, tier="index", operation="read", outcome="unavailable"}}': "0+11x60",
        },
        "tier",
        {4: [], 20: ["index"]},
    ),
    "KvquiltStoreNearlyFull": Case(
        {
            f'kvquilt_node_volume_free_bytes{{{NODE}, tier="store"}}': "60x10 40x40",
            f'kvquilt_node_tier_capacity_bytes{{{NODE}, tier="store"}}': "100x60",
            f'kvquilt_node_tier_bytes{{{NODE}, tier="store"}}': "50x60",
            f'kvquilt_node_puts_refused_total{{{NODE}, reason="store_full"}}': "0x60",
            'kvquilt_node_puts_refused_total{job="kvquilt-node", instance="m", reason="disk_full"}': "0x5 0+1x60",
            'kvquilt_node_puts_refused_total{job="kvquilt-node", instance="o", reason="over_cap"}': "0x5 0+1x60",  # larger than the store
        },
        "instance",
        {9: [], 24: ["m"], 30: ["m", "n"]},
    ),
    "KvquiltWriteQueueGrowing": Case(
        {
            f"kvquilt_node_queue_entries{{{NODE}}}": "0x5 7x60",
            f"kvquilt_node_queue_flushed_total{{{NODE}}}": "3x65",
            f"kvquilt_node_queue_full_total{{{NODE}}}": "0x65",
            'kvquilt_node_queue_entries{job="kvquilt-node", instance="works"}': "0x5 7x60",
            'kvquilt_node_queue_flushed_total{job="kvquilt-node", instance="works"}': "0+3x65",
            'kvquilt_node_queue_entries{job="kvquilt-node", instance="full"}': "0x65",
            'kvquilt_node_queue_full_total{job="kvquilt-node", instance="full"}': "0x5 0+1x60",
        },
        "instance",
        {5: [], 50: ["full", "n"]},
    ),
    "KvquiltCorruptObjects": Case(
        {
            f'kvquilt_node_damaged_total{{{NODE}, kind="object"}}': "0x5 1x100",
            f'kvquilt_node_damaged_total{{{NODE}, kind="copy"}}': "2x106",
        },
        "kind",
        {4: [], 10: ["object"], 100: []},
    ),
    "KvquiltDeletionsPending": Case(
        {
            f"kvquilt_node_pending_deletions{{{NODE}}}": "0x5 3x100",
            'kvquilt_node_pending_deletions{job="kvquilt-node", instance="soon"}': "0x5 3x40 0x20 3x40",
        },
        "instance",
        {50: [], 90: ["n"]},
    ),
    "KvquiltCertificateExpiring": Case(
        {
            # promtool's time begins at 0: two weeks and a day, and two weeks but a day.
            f'kvquilt_certificate_expiry_timestamp_seconds{{{NODE}, role="server"}}': f"{15 * 86400}x200",
            f'kvquilt_certificate_expiry_timestamp_seconds{{{NODE}, role="store"}}': f"{13 * 86400}x200",
        },
        "role",
        {50: [], 70: ["store"]},
    ),
    "KvquiltTokenExpiring": Case(
        {
            # Tokens of a hundred minutes: one is renewed late, one in time, one is shown after it has expired.
            f'kvquilt_token_expiry_timestamp_seconds{{{ROUTER}, role="nodes"}}': "6000x97 12000x20",
            f'kvquilt_token_lifetime_seconds{{{ROUTER}, role="nodes"}}': "6000x118",
            f'kvquilt_token_expiry_timestamp_seconds{{{ROUTER}, role="callers", tenant="in time"}}': "6000x80 12000x37",
            f'kvquilt_token_lifetime_seconds{{{ROUTER}, role="callers", tenant="in time"}}': "6000x118",
            f'kvquilt_token_expiry_timestamp_seconds{{{NODE}, role="callers", tenant="*"}}': "6000x118",
            f'kvquilt_token_lifetime_seconds{{{NODE}, role="callers", tenant="*"}}': "6000x118",
        },
        "job",
        {90: [], 96: ["kvquilt-node", "kvquilt-router"], 110: ["kvquilt-node"]},
    ),
}


def test_every_alert_fires_for_what_it_is_for_and_for_no_less(tmp_path) -> None:
    assert CASES.keys() == alerts().keys()
    written = tmp_path / "tests.yaml"
    written.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": "1m",
                "tests": [_test(name, case) for name, case in CASES.items()],
            }
        )
    )
    result = promtool("test", "rules", written)
    assert result.returncode == 0, result.stdout + result.stderr


def _test(name: str, case: Case) -> dict[str, object]:
    firing = f'count by ({case.by}) (ALERTS{{alertname="{name}", alertstate="firing"}} > 0)'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{{case.by}="{value}"}}', "value": 1} for value in values],
            }
            for minute, values in case.firing.items()
        ],
    }
