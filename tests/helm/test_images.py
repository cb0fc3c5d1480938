"""The Dockerfile is linted; no engine that builds it can be had here."""

import subprocess

from tests.helm.chart import ROOT, TOOLS, defaults


def test_hadolint_finds_nothing() -> None:
    linter = TOOLS / "python" / "bin" / "hadolint"
    result = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=120)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


def test_every_image_of_the_chart_has_a_stage() -> None:
    stages = {line.split()[-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")}
    image = defaults()["image"]
    assert {image["node"], image["router"]} == {f"kvquilt-{stage}" for stage in stages - {"build"}}
