"""The Dockerfile is linted; no engine that builds it can be had here."""

import re
import subprocess
import tomllib

from tests.helm.chart import ROOT, TOOLS, defaults

OUTSIDE = {"bench", "dev", "langchain", "triton"}
"""Extras that no server of the chart needs; a torch with CUDA brings triton."""


def test_hadolint_finds_nothing() -> None:
    linter = TOOLS / "python" / "bin" / "hadolint"
    result = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=120)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


def test_every_image_of_the_chart_has_a_stage() -> None:
    stages = {line.split()[-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")}
    image = defaults()["image"]
    assert {image["node"], image["router"]} == {f"kvquilt-{stage}" for stage in stages - {"build"}}


def test_every_extra_that_servers_need_is_in_an_image() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    installed = re.findall(r"\.whl\)\[([a-z,]+)\]", (ROOT / "Dockerfile").read_text())
    assert len(installed) == 2
    assert {extra for listed in installed for extra in listed.split(",")} == extras - OUTSIDE
