"""The secrets that objects refer to are those that the documentation tells an operator to make."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docs.pages import rows, section, words
from tests.helm.chart import Rendered, defaults, host, of_size, render

ALL = {
    "storage": {
        "objects": "object",
        "redis": {
            "bundled": False,
            "urlSecret": {"secret": "a"},
            "ca": {"secret": "b"},
            "clientCertificate": "c",
        },
        "object": {"url": "s3://kvquilt", "credentials": {"secret": "d"}},
    },
    "encryption": {"secret": "e"},
    "helmTest": {"token": {"secret": "f"}, "certificate": "g"},
    "tracing": {"endpoint": "http://collector.monitoring.svc:4317", "headers": {"secret": "h"}},
}
CERTIFICATES = {**ALL, "callers": {"mode": "certificates", "identities": {"app": {"namespaces": ["team-a"]}}}}


def referred(rendered: Rendered) -> set[str]:
    """Names of the secrets that pods take, but for those that the release makes."""
    own = {found["metadata"]["name"] for found in rendered.of("Secret")}
    found = set()
    for _, pod in rendered.pods():
        for place in _dicts(pod["spec"]):
            if "secretName" in place:
                found.add(place["secretName"])
            if "secretKeyRef" in place:
                found.add(place["secretKeyRef"]["name"])
    return found - own


def _dicts(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _dicts(item)


def table() -> dict[str, tuple[str, set[str]]]:
    """Secret by default, and keys, by the value that names it."""
    documented = rows(section("kubernetes.md", "Secrets"))
    return {next(iter(words(row[0]))): (row[1].strip("`"), words(row[2])) for row in documented}


def at(name: str, values: Any) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def test_the_tables_secrets_are_the_values() -> None:
    for name, (secret, keys) in table().items():
        value = at(name, defaults())
        if isinstance(value, str):
            assert secret in (value, "none"), name
            continue
        assert secret == (value["secret"] or "none"), name
        assert keys >= {text for part, text in value.items() if part != "secret"}, name


@pytest.mark.parametrize("values", [{}, ALL, CERTIFICATES], ids=["defaults", "all", "certificates"])
def test_every_secret_that_is_referred_to_is_in_the_table(values: dict[str, Any]) -> None:
    release = render(values)
    merged = {**defaults(), **values}
    known = set()
    for name in table():
        try:
            value = at(name, merged)
        except KeyError:  # left as it is by default
            value = at(name, defaults())
        known.add(value if isinstance(value, str) else value["secret"])
    assert referred(release) <= known


def test_the_names_that_certificates_need_are_those_of_the_services() -> None:
    text = section("kubernetes.md", "Secrets")
    services = {found["metadata"]["name"] for found in of_size("production").of("Service")}
    for pattern in re.findall(r"RELEASE-([a-zA-Z-]+)\.NAMESPACE\.svc", text):
        name = f"kvquilt-{pattern}".replace("MODEL", "chat")
        assert name in services | {"kvquilt-router"}, name
    known = of_size("production").one("ConfigMap", "kvquilt-node")["data"]["identities.yaml"]
    assert host("kvquilt-router") in known
