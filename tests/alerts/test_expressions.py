"""Alerts and dashboards ask for what is there: every expression parses, and names metrics and labels that exist."""

import pytest

from tests.alerts.exported import declared
from tests.alerts.labelled import WrongExpressionError, labels_of
from tests.alerts.rules import ALERTS, Expression, alerts, expressions, filled_in
from tests.servers.prometheus import PROMTOOL, promtool

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")


@pytest.mark.parametrize("expression", [*expressions()], ids=lambda expression: expression.where)
def test_names_and_labels_are_declared_and_what_is_joined_can_match(expression: Expression) -> None:
    labels = labels_of(expression.text, declared())
    assert expression.shown <= (labels or frozenset()), "a label is shown that the result does not have"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("kvquilt_router_request_total", "no metric"),
        ('kvquilt_router_tokens_total{kinds="exact"}', "no label kinds"),
        ("sum by (model) (kvquilt_router_tokens_total)", "no label model"),
        ("kvquilt_router_tokens_total / kvquilt_router_requests_total", "never matches"),
        ("sum by (tenant) (kvquilt_router_tokens_total) / sum(kvquilt_router_tokens_total)", "never matches"),
        ("kvquilt_node_objects * on (instance, tier) kvquilt_node_pinned_bytes", "no label tier"),
        ("histogram_quantile(0.5, sum(rate(kvquilt_call_seconds_bucket[5m])))", "no label le"),
        ("rate(kvquilt_call_seconds[5m])", "no metric"),
    ],
)
def test_what_is_wrong_is_found(wrong: str, said: str) -> None:
    with pytest.raises(WrongExpressionError, match=said):
        labels_of(wrong, declared())


@needs_promtool
def test_prometheus_itself_takes_the_rules_and_every_panel(tmp_path) -> None:
    result = promtool("check", "rules", ALERTS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in result.stdout
    # As rules that record: promtool of Debian's Prometheus parses no single expression.
    panels = [found for found in expressions() if found.where not in alerts()]
    lines = [f"- record: panel:{number}\n  expr: {found.text!r}" for number, found in enumerate(panels)]
    written = tmp_path / "panels.yaml"
    written.write_text("groups:\n- name: panels\n  rules:\n  " + "\n".join(lines).replace("\n", "\n  "))
    result = promtool("check", "rules", written)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"SUCCESS: {len(panels)} rules found" in result.stdout


def test_no_variable_of_grafana_is_left() -> None:
    assert filled_in('rate(up{a=~"$tenant"}[$__rate_interval])') == 'rate(up{a=~".*"}[5m])'
    assert not any("$" in expression.text for expression in expressions())
