"""What `helm install` prints: commands for this very release."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.docs.commands import refused
from tests.helm.chart import CHART, NAMESPACE, RELEASE, SIZES, Rendered, helm, render

KEYS = {"service": "Service", "deployment": "Deployment"}
ODD: dict[str, dict[str, Any]] = {
    "without a test": {"helmTest": {"enabled": False}},
    "with all there is": {
        "helmTest": {"token": {"secret": "mine"}},
        "metrics": {"enabled": True, "serviceMonitor": {"enabled": True}},
        "router": {"statusPage": True},
    },
    "with metrics that nobody scrapes": {"metrics": {"enabled": True}},
    "certificates": {"callers": {"mode": "certificates", "identities": {"a.example": {"namespaces": ["a"]}}}},
    "certificates, without a test": {
        "callers": {"mode": "certificates", "identities": {"a.example": {"namespaces": ["a"]}}},
        "helmTest": {"enabled": False, "certificate": "mine"},
    },
}
RELEASES = [
    *((size, {}) for size in SIZES),
    *(("small", values) for values in ODD.values()),
    ("trial", ODD["without a test"]),
]
each = pytest.mark.parametrize(("size", "values"), RELEASES, ids=[*SIZES, *ODD, "trial without a test"])


def notes(size: str, values: dict[str, Any], folder: Path) -> str:
    given = folder / "values.json"
    given.write_text(json.dumps(values))
    sizes = str(CHART / f"values-{size}.yaml")
    printed = helm("install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", sizes, "-f", str(given), "--dry-run=client")
    return printed.partition("\nNOTES:\n")[2]


def commands(text: str) -> list[str]:
    return re.findall(r"^   ((?:kubectl|helm|kvquilt) .*)$", text, re.MULTILINE)


@each
def test_commands_are_of_this_release(size: str, values: dict[str, Any], tmp_path: Path) -> None:
    found, release = commands(notes(size, values, tmp_path)), render(values, size)
    here = {(kind.lower(), one["metadata"]["name"]) for kind in KEYS.values() for one in release.of(kind)}
    for line in found:
        words = shlex.split(line)
        if words[0] == "kvquilt":
            assert refused(line) == "", line
            continue
        assert NAMESPACE in words, line
        for word in words:
            kind, _, name = word.partition("/")
            if kind in KEYS and name:
                assert (kind, name) in here, line
    assert [line for line in found if line.startswith("helm test")] == [
        f"helm test {RELEASE} --namespace {NAMESPACE} --logs"
    ]


@each
def test_after_what_is_said_the_release_can_be_tested(size: str, values: dict[str, Any], tmp_path: Path) -> None:
    found = commands(notes(size, values, tmp_path))
    upgrades = [shlex.split(line) for line in found if line.startswith("helm upgrade")]
    flags = [word for words in upgrades for flag, given in pairwise(words) if flag == "--set" for word in (flag, given)]
    assert bool(_tests(render(values, size))) is not bool(flags), "an upgrade is asked for where it is needed alone"
    release = render(values, size, *flags)
    tests = _tests(release)
    assert len(tests) == len(release.of("Deployment")) - 1, "each model's router"
    mounted = {
        source["secret"]["secretName"] for pod in tests for source in pod["spec"]["volumes"] if "secret" in source
    }
    created = {shlex.split(line)[6] for line in found if " create secret generic " in line}
    assert created <= mounted
    assert bool(created) == any("Test." in flag and "enabled" not in flag for flag in flags)


def test_they_say_what_is_switched_on_and_how_it_is_called(tmp_path: Path) -> None:
    told = {name: notes("small", values, tmp_path) for name, values in ODD.items()} | {
        "trial": notes("trial", {}, tmp_path)
    }
    of_tls = {name for name, text in told.items() if "tls_ca=ca.crt" in text and "kvquilt-router-tls" in text}
    assert of_tls == ODD.keys()
    assert {name for name, text in told.items() if "token_file=token" in text} == {
        name for name in ODD if "certif" not in name
    }
    assert {name for name, text in told.items() if "tls_key=tls.key" in text} == {
        name for name in ODD if "certif" in name
    }
    assert {name for name, text in told.items() if "https://localhost:7413" in text} == {"with all there is"}
    served = {name for name, text in told.items() if "localhost:9411/metrics" in text}
    assert served == {"with all there is", "with metrics that nobody scrapes"}
    assert {name for name, text in told.items() if "serviceMonitor.enabled is false" in text} == served - {
        "with all there is"
    }
    assert {name for name, text in told.items() if "metrics.enabled is false" in text} == told.keys() - served
    assert {name for name, text in told.items() if "Only for trying" in text} == {"trial"}


def test_every_model_has_its_lines(tmp_path: Path) -> None:
    text = notes("production", {}, tmp_path)
    for model in ("chat", "chat-large"):
        assert f"  {model}: dns:///kvquilt-router-{model}-all.{NAMESPACE}.svc:7410\n" in text
        assert f"port-forward service/kvquilt-router-{model} 7410\n" in text


def _tests(release: Rendered) -> list[dict[str, Any]]:
    return [pod for pod in release.of("Pod") if "helm.sh/hook" in pod["metadata"]["annotations"]]
