"""Whatever values the schema takes, what comes out is valid, safe, and a configuration that kvquilt takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.e2e.commands import kvquilt
from tests.helm import drawn
from tests.helm.chart import CHART, SIZES, Rendered, defaults, helm, of_size, render
from tests.helm.placed import Placed
from tests.helm.policies import check, objects_are_valid

EVERYTHING: Mapping[str, Any] = {
    "metrics": {
        "enabled": True,
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "runbookUrl": "https://example.com/runbooks/"},
        "dashboards": {"enabled": True},
    },
    "tracing": {"endpoint": "http://collector.monitoring.svc:4317", "headers": {"secret": "collector"}},
    "router": {"statusPage": True},
}


@pytest.mark.parametrize("size", [None, *SIZES])
def test_helm_lints_every_file_of_values(size: str | None) -> None:
    flags = [] if size is None else ["--values", str(CHART / f"values-{size}.yaml")]
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *flags)


@pytest.mark.parametrize("size", SIZES)
def test_objects_of_every_file_of_values_keep_the_rules(size: str) -> None:
    values = yaml.safe_load((CHART / f"values-{size}.yaml").read_text())
    check(of_size(size), drawn.merged(values))


def test_the_charts_own_values_keep_the_rules() -> None:
    check(render({}), defaults())


@pytest.mark.parametrize("size", SIZES)
def test_so_do_those_with_all_that_is_off_by_default(size: str, tmp_path: Path) -> None:
    values = drawn.merged(EVERYTHING, yaml.safe_load((CHART / f"values-{size}.yaml").read_text()))
    rendered = render(values)
    check(rendered, drawn.merged(values))
    placed = Placed(rendered, tmp_path)
    for deployment in rendered.of("Deployment"):
        placed.process(deployment["metadata"]["name"]).check()


@pytest.mark.parametrize("size", SIZES)
def test_every_configuration_can_be_used(size: str, tmp_path: Path) -> None:
    placed = Placed(of_size(size), tmp_path)
    for deployment in of_size(size).of("Deployment"):
        placed.process(deployment["metadata"]["name"]).check()


@pytest.mark.parametrize("name", ["kvquilt-node", "kvquilt-router-chat"])
def test_the_command_says_so_too(name: str, tmp_path: Path) -> None:
    process = Placed(of_size("production"), tmp_path).process(name)
    said = kvquilt("config", "check", "--config", process.config, **process.environment)
    assert "the settings can be used" in said.stdout


@pytest.mark.parametrize("release", ["1", "true", "a" * 53])
def test_a_release_may_have_any_name_that_helm_takes(release: str) -> None:
    text = helm("template", release, str(CHART))
    objects_are_valid(Rendered([found for found in yaml.safe_load_all(text) if found is not None]))


# Not made smaller: that takes minutes, and the values are small enough to read.
@settings(
    max_examples=15,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@seed(7)
@given(values=drawn.whole())
def test_any_values_that_the_schema_takes_keep_the_rules(values, tmp_path_factory) -> None:
    rendered = render(values)
    check(rendered, drawn.merged(values))
    placed = Placed(rendered, tmp_path_factory.mktemp("values"))
    for deployment in rendered.of("Deployment"):
        placed.process(deployment["metadata"]["name"]).check()
