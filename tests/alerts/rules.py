"""The alerts and dashboards of the chart, and their expressions."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "helm" / "kvquilt" / "files" / "alerts.yaml"
DASHBOARDS = ROOT / "helm" / "kvquilt" / "files" / "dashboards"
RUNBOOKS = ROOT / "docs" / "runbooks"

_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$__interval": "1m"}


@dataclass(frozen=True)
class Expression:
    """A PromQL expression, where it stands, and the labels that are shown of what it gives."""

    where: str
    text: str
    shown: frozenset[str]


def groups() -> Any:
    """Of the rule file."""
    return yaml.safe_load(ALERTS.read_text())["groups"]


def alerts() -> dict[str, Any]:
    """Rules by the name of the alert."""
    rules = [rule for group in groups() for rule in group["rules"]]
    found = {rule["alert"]: rule for rule in rules}
    assert len(found) == len(rules), "two alerts have the same name"
    return found


def dashboards() -> dict[str, Any]:
    """By file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: Any) -> Iterator[Any]:
    """All that show something, those of folded rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", ())


def variables(dashboard: Any) -> Iterator[tuple[str, str, str]]:
    """Name, metric (with matchers) and label of those that ask Prometheus."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, _, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).group(1, 0, 2)
            yield variable["name"], metric, label


def expressions() -> Iterator[Expression]:
    """Of all alerts, panels and variables."""
    for name, rule in alerts().items():
        said = " ".join(rule["annotations"].values())
        yield Expression(name, rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", said)))
    for file, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                shown = frozenset(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                yield Expression(f"{file}: {panel['title']}", filled_in(target["expr"]), shown)
        for name, metric, label in variables(dashboard):
            yield Expression(f"{file}: ${name}", filled_in(metric), frozenset({label}))


def filled_in(expression: str) -> str:
    """A panel's expression with values for the variables of Grafana."""
    for name, value in _GRAFANA.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\w+", ".*", expression)


def selectors(expression: str) -> list[promql.VectorSelector]:
    """All series that an expression selects."""
    found: list[promql.VectorSelector] = []

    def seen(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql.walk(promql.parse(expression), seen)
    return found


def hurried(text: str, *, shortest: float, factor: float) -> str:
    """The rule file with all its times divided by `factor`: windows to `shortest` seconds at least, `for` to 2 s.

    Nothing else is changed, so what fires here is the expression that fires in production.
    """

    def shorter(duration: str) -> str:
        count, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()
        return f"{max(shortest, int(count) * _DURATIONS[unit] / factor):.0f}s"

    loaded = yaml.safe_load(text)
    for group in loaded["groups"]:
        for rule in group["rules"]:
            windows = re.sub(r"\[(\w+)\]", lambda found: f"[{shorter(found[1])}]", rule["expr"])
            rule["expr"] = re.sub(r"offset (\w+)", lambda found: f"offset {shorter(found[1])}", windows)
            if "for" in rule:
                rule["for"] = "2s"
    return yaml.safe_dump(loaded)
