"""The dashboards have the types that Grafana publishes for them in TypeScript, panels' options too."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helm.chart import CHART, ROOT, TOOLS

DASHBOARDS = {path.stem: path.read_text() for path in sorted((CHART / "files" / "dashboards").glob("*.json"))}
WRONG = {
    "an option that there is not": ('"graphMode": "none"', '"grafMode": "none"'),
    "a value that an option has not": ('"graphMode": "none"', '"graphMode": "big"'),
    "a way to draw lines that there is not": ('"lineWidth": 1', '"lineWith": 1'),
    "a word for a number": ('"schemaVersion": 41', '"schemaVersion": "41"'),
    "a kind of panel that they do not use": ('"type": "stat"', '"type": "gauge"'),
    "a field of a query that there is not": ('"legendFormat": ', '"legend": '),
    "a field of a variable that there is not": ('"includeAll": ', '"includesAll": '),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the compiler says of the dashboards, and of the overview with one mistake in each file."""
    folder = tmp_path_factory.mktemp("grafana")
    for name in ("written.ts", "tsconfig.json"):
        shutil.copy(ROOT / "helm" / "grafana" / name, folder)
    (folder / "node_modules").symlink_to(TOOLS / "grafana" / "node_modules")
    mistaken = {}
    for number, (right, wrong) in enumerate(WRONG.values()):
        assert right in DASHBOARDS["overview"], right
        mistaken[f"wrong-{number}"] = DASHBOARDS["overview"].replace(right, wrong, 1)
    for name, text in {**DASHBOARDS, **mistaken}.items():
        _source(folder / f"{name}.ts", text)
    compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
    result = subprocess.run(
        ["node", compiler, "--pretty", "false", "-p", folder], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert "written.ts" not in result.stdout, result.stdout
    return result.stdout


def _source(path: Path, text: str) -> None:
    path.write_text(f'import type {{ Written }} from "./written";\nexport const dashboard: Written = {text};\n')


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_types_take_it(said: str, name: str) -> None:
    assert [line for line in said.splitlines() if line.startswith(f"{name}.ts")] == []


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[*WRONG])
def test_a_mistake_is_found(said: str, number: int) -> None:
    assert f"wrong-{number}.ts" in said
