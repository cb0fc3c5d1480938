"""What holds for the objects by which metrics are found."""

from collections.abc import Mapping
from typing import Any

from tests.helm.chart import Rendered, chooses


def metrics_are_found(rendered: Rendered, values: Mapping[str, Any]) -> None:
    """Each part's metrics are asked for once, by who may."""
    wanted = values["metrics"]
    parts = rendered.of("Deployment") if wanted["enabled"] else []
    offered = [found for found in rendered.of("Service") if found["spec"]["ports"][0]["name"] == "metrics"]
    assert len(offered) == len(parts)
    for part in parts:
        labels = part["spec"]["template"]["metadata"]["labels"]
        (container,) = part["spec"]["template"]["spec"]["containers"]
        (port,) = (port["containerPort"] for port in container["ports"] if port["name"] == "metrics")
        settings = rendered.settings(part["metadata"]["name"])[labels["app.kubernetes.io/component"]]
        assert (settings["metrics_port"], settings["metrics_host"]) == (port, values["bindAddress"])
    monitors = rendered.of("ServiceMonitor")
    assert len(monitors) == (2 if wanted["serviceMonitor"]["enabled"] else 0)
    for service in rendered.of("Service") if monitors else ():
        chosen = [each for each in monitors if chooses(each["spec"]["selector"], service)]
        assert len(chosen) == (service in offered), service["metadata"]["name"]
        for monitor in chosen:
            (endpoint,) = monitor["spec"]["endpoints"]
            assert endpoint["port"] == "metrics"
            part = service["metadata"]["labels"]["app.kubernetes.io/component"]
            assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": f"kvquilt-{part}"}]
    rules = rendered.of("PrometheusRule")
    assert len(rules) == bool(wanted["rules"]["enabled"])
    for rule in (rule for found in rules for group in found["spec"]["groups"] for rule in group["rules"]):
        if "alert" in rule:
            assert rule["annotations"]["runbook_url"].startswith(wanted["rules"]["runbookUrl"].rstrip("/") + "/")
    for policy in rendered.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            if {"protocol": "TCP", "port": "metrics"} in rule["ports"]:
                assert rule["from"] == wanted["scrapers"]
