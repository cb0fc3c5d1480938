"""Writes the dashboards into the chart's files."""

from pathlib import Path

from helm.dashboards.overview import OVERVIEW
from helm.dashboards.quality import QUALITY
from helm.dashboards.tenants import TENANTS

FOLDER = Path(__file__).parents[1] / "kvquilt" / "files" / "dashboards"
DASHBOARDS = {"overview.json": OVERVIEW, "quality.json": QUALITY, "tenants.json": TENANTS}

if __name__ == "__main__":
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / name).write_text(dashboard.json(), encoding="utf-8")
