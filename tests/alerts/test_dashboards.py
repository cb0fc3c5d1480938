"""Dashboards are what their generator writes and what Grafana reads; every panel says what it shows, in what unit."""

import json
import re

import pytest
from grafana_foundation_sdk.models.dashboard import Dashboard

from helm.dashboards.__main__ import DASHBOARDS
from helm.dashboards.kit import written
from tests.alerts.rules import DASHBOARDS as FOLDER
from tests.alerts.rules import alerts, dashboards, panels

BUILT_IN = {"__rate_interval", "__range"}
UNITS = {"percentunit", "s", "short", "bytes", "Bps", "reqps"}
"""Of Grafana's units, those that are used."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

each = pytest.mark.parametrize("name", sorted(DASHBOARDS))


@each
def test_the_file_is_what_the_generator_writes(name: str) -> None:
    assert DASHBOARDS[name].json() == (FOLDER / name).read_text(), "make dashboards"


def test_there_are_no_other_files_and_every_dashboard_has_an_id_of_its_own() -> None:
    found = dashboards()
    assert found.keys() == DASHBOARDS.keys()
    assert len({dashboard["uid"] for dashboard in found.values()}) == len(found)


@each
def test_grafana_knows_every_field(name: str) -> None:
    """Read into the types that Grafana publishes for its version 11, which drop what they do not know."""
    loaded = json.loads((FOLDER / name).read_text())
    assert json.loads(written(Dashboard.from_json(loaded))) == loaded
    assert loaded["schemaVersion"] >= 39, "Grafana 11"


@each
def test_every_panel_says_what_it_shows_of_the_chosen_data_source(name: str) -> None:
    dashboard = dashboards()[name]
    shown = [*panels(dashboard)]
    assert len({panel["title"] for panel in shown}) == len(shown)
    for panel in shown:
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        assert {json.dumps(part["datasource"]) for part in (panel, *panel["targets"])} == {json.dumps(SOURCE)}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert all(target["legendFormat"] for target in panel["targets"])
        named = re.findall(r"\bKvquilt\w+", panel["description"])
        assert set(named) <= alerts().keys(), panel["title"]
    everything = [*dashboard["panels"], *(panel for row in dashboard["panels"] for panel in row.get("panels", ()))]
    numbers = [panel["id"] for panel in everything]
    assert len(set(numbers)) == len(numbers)


@each
def test_thresholds_ascend_and_mean_something(name: str) -> None:
    for panel in panels(dashboards()[name]):
        defaults = panel["fieldConfig"]["defaults"]
        first, *steps = defaults["thresholds"]["steps"]
        assert first["value"] is None
        values = [step["value"] for step in steps]
        assert values == sorted(set(values)), panel["title"]
        if defaults["unit"] == "percentunit":
            assert all(0 <= value <= 1 for value in values), panel["title"]
        colours = [step["color"] for step in (first, *steps)]
        # Nothing is called good or bad where there is no such value; else one end is green.
        assert colours == ["blue"] if not steps else "green" in (colours[0], colours[-1]), panel["title"]


@each
def test_panels_lie_side_by_side_on_the_grid(name: str) -> None:
    rows = dashboards()[name]["panels"]
    for together in (
        [row for row in rows if not row.get("panels")],
        *(row["panels"] for row in rows if row.get("panels")),
    ):
        cells = [
            (x, y)
            for panel in together
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) < 24


@each
def test_every_variable_is_there_and_used(name: str) -> None:
    dashboard = dashboards()[name]
    declared = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - BUILT_IN - {"__all"}
    assert used == declared
