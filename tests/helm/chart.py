"""The chart as helm renders it."""

import base64
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "kvquilt"
TOOLS = ROOT / ".chart-tools"
SIZES = ("trial", "small", "production")
NAMESPACE, RELEASE = "demo", "kvquilt"
KUBERNETES = ("1.30.0", "1.37.0")
"""The oldest that Chart.yaml allows, and the newest that there are schemas of."""

Object = dict[str, Any]


class RefusedError(Exception):
    """What helm said instead of rendering."""


@dataclass(frozen=True)
class Rendered:
    """All objects of a release, hooks too."""

    objects: Sequence[Object]

    def of(self, *kinds: str) -> list[Object]:
        """Those of some kinds."""
        return [found for found in self.objects if found["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The one of this name."""
        (found,) = (found for found in self.of(kind) if found["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Name and pod (template) of everything that runs."""
        for found in self.of("Deployment", "StatefulSet"):
            yield found["metadata"]["name"], found["spec"]["template"]
        for found in self.of("Pod"):
            yield found["metadata"]["name"], found

    def settings(self, name: str) -> Any:
        """What stands in the kvquilt.yaml of a part."""
        return yaml.safe_load(self.one("ConfigMap", name)["data"]["kvquilt.yaml"])

    def secret(self, name: str) -> dict[str, bytes]:
        """What a Secret holds."""
        return {key: base64.b64decode(data) for key, data in self.one("Secret", name)["data"].items()}


def helm(*arguments: str) -> str:
    """What helm prints.

    Raises:
        RefusedError: it failed.
    """
    result = subprocess.run([TOOLS / "helm", *arguments], capture_output=True, text=True, timeout=120)
    if result.returncode:
        raise RefusedError(result.stderr)
    return result.stdout


def render(values: Mapping[str, Any], size: str | None = None, *flags: str) -> Rendered:
    """A release with these values, over those of a size, over the chart's own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        of_size = [] if size is None else ["--values", str(CHART / f"values-{size}.yaml")]
        text = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *of_size, "--values", file.name, *flags)
    return Rendered([found for found in yaml.safe_load_all(text) if found is not None])


@cache
def of_size(size: str) -> Rendered:
    """A release with the values of a size."""
    return render({}, size)


def schema() -> Any:
    """Of the chart's values."""
    return json.loads((CHART / "values.schema.json").read_text())


def defaults() -> Any:
    """The chart's own values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def host(name: str) -> str:
    """DNS name of a service."""
    return f"{name}.{NAMESPACE}.svc"


def chooses(selector: Object, pod: Object) -> bool:
    """Whether a selector is one of a pod's, or of another object with labels."""
    labels: dict[str, str] = pod["metadata"]["labels"]
    return selector["matchLabels"].items() <= labels.items()
