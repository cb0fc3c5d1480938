"""Values that make no sense are refused, and the message says what is wrong."""

import pytest

from tests.helm.chart import RefusedError, render

REFUSED = {
    "an unknown name": ({"nodes": {}}, "nodes"),
    "an unknown name further down": ({"node": {"replica": 2}}, "replica"),
    "a size that is none": ({"storage": {"capacity": "4GB"}}, "capacity"),
    "a size as a number": ({"storage": {"capacity": 4}}, "capacity"),
    "no nodes": ({"node": {"replicas": 0}}, "replicas"),
    "no models": ({"router": {"models": []}}, "models"),
    "a model outside the volume": (
        {"router": {"models": [_ := {"name": "m", "path": "/etc", "replicas": 1, "cpu": {}, "memory": "1Gi"}]}},
        "path",
    ),
    "a model of a volume without a claim": (
        {"router": {"models": [{**_, "path": "/models/m", "cpu": {"request": "1", "limit": "1"}}]}},
        "claim",
    ),
    "models of one name": (
        {"router": {"models": [{**_, "path": "smollm2", "cpu": {"request": "1", "limit": "1"}}] * 2}},
        "different names",
    ),
    "a setting that the chart makes": ({"node": {"settings": {"capacity": "1GiB"}}}, "invalid propertyName 'capacity'"),
    "tokens without TLS": ({"tls": {"mode": "none"}}, "tls"),
    "tokens without a master secret": ({"router": {"masterSecret": {"secret": ""}}}, "masterSecret"),
    "a status page for callers with certificates": (
        {
            "router": {"statusPage": True},
            "callers": {"mode": "certificates", "identities": {"a.example": {"identity": "a"}}},
        },
        "statusPage",
    ),
    "certificates of nobody": ({"callers": {"mode": "certificates"}}, "identities"),
    "a namespace without a master secret": (
        {
            "callers": {"mode": "anonymous"},
            "router": {"namespace": "team-a", "masterSecret": {"secret": ""}},
        },
        "namespace",
    ),
    "an issuer without a name": ({"tls": {"mode": "certManager"}}, "issuer"),
    "certificates that are renewed after their end": (
        {"tls": {"mode": "certManager", "certManager": {"issuer": {"name": "ca"}, "renewBefore": "3000h"}}},
        "renewBefore",
    ),
    "a Redis outside without its URL": ({"storage": {"redis": {"bundled": False}}}, "urlSecret"),
    "object storage without its URL": ({"storage": {"objects": "object"}}, "url"),
    "object storage behind an index that forgets": (
        {"storage": {"objects": "object", "object": {"url": "s3://kvquilt"}, "redis": {"persistent": False}}},
        "persistent",
    ),
    "fewer at most than at least": (
        {"node": {"autoscaling": {"enabled": True, "min": 5, "max": 2}}},
        "expected node.autoscaling.max of at least min, 5; got 2",
    ),
    "more CPU asked for than allowed": (
        {"node": {"cpu": {"request": "3", "limit": "2500m"}}},
        "expected cpu.request of node of at most its limit, 2500m; got 3",
    ),
    "more routers at least than at most": (
        {
            "router": {
                "models": [
                    {**_, "path": "smollm2", "cpu": {"request": "1", "limit": "1"}, "replicas": 3}
                    | {"autoscaling": {"max": 2, "cpuPercent": 70}}
                ]
            }
        },
        "expected autoscaling.max of model m of at least its replicas, 3; got 2",
    ),
    "routers that are scaled by nothing": (
        {
            "router": {
                "models": [{**_, "path": "smollm2", "cpu": {"request": "1", "limit": "1"}, "autoscaling": {"max": 2}}]
            }
        },
        "cpuPercent",
    ),
    "a monitor of metrics that nobody serves": ({"metrics": {"serviceMonitor": {"enabled": True}}}, "serviceMonitor"),
    "metrics that take longer to read than the next reading is away": (
        {"metrics": {"enabled": True, "serviceMonitor": {"interval": "5s", "scrapeTimeout": "1m"}}},
        "expected metrics.serviceMonitor.scrapeTimeout of at most its interval, 5s; got 1m",
    ),
    "a label that the chart makes": (
        {"node": {"podLabels": {"kvquilt.io/model": "x"}}},
        "invalid propertyName 'kvquilt.io/model'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_nonsense_is_refused(what: str) -> None:
    values, said = REFUSED[what]
    with pytest.raises(RefusedError, match=said):
        render(values)
