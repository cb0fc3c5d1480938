"""Values drawn from the chart's schema."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
from hypothesis import strategies as st

from tests.helm.chart import defaults, schema

Strategy = st.SearchStrategy[Any]

_PEER = st.sampled_from(
    [
        {"podSelector": {"matchLabels": {"app": "worker"}}},
        {"namespaceSelector": {}, "podSelector": {}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    ]
)
_METRIC = st.sampled_from(
    [
        {
            "type": "Pods",
            "pods": {"metric": {"name": "calls"}, "target": {"type": "AverageValue", "averageValue": "20"}},
        },
        {
            "type": "External",
            "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "100"}},
        },
    ]
)
_NODE_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "sweep_seconds": st.floats(0.5, 600),
        "departures": st.integers(0, 1 << 24),
        "fsync": st.booleans(),
        "namespaces": st.just({"team-a": {"share": 3}, "*": {"share": 1}}),
        "read_lease": st.integers(0, 600),
        "redis_prefix": st.just("kvquilt:blue"),
        "max_transfers": st.sampled_from([16, 64]),
    },
)
_ROUTER_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "chunk_tokens": st.integers(1, 4096),
        "max_kl": st.floats(0.01, 1),
        "background": st.booleans(),
        "anchor_bytes": st.integers(0, 1 << 40),
        "recompute_ratio": st.floats(0, 1),
    },
)


def _ordered(strategy: Strategy, *names: str, key: Any) -> Strategy:
    """Of these properties the smaller value first."""

    def swapped(drawn: dict[str, Any]) -> dict[str, Any]:
        return {**drawn, **dict(zip(names, sorted((drawn[name] for name in names), key=key), strict=True))}

    return strategy.map(swapped)


def _cores(text: str) -> float:
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def _hours(text: str) -> int:
    return int(text.removesuffix("h"))


def _seconds(text: str) -> int:
    return int(text[:-1]) * (60 if text.endswith("m") else 1)


def _scaled(model: dict[str, Any]) -> dict[str, Any]:
    """A model with at most as many routers as it may have."""
    scaling = model.get("autoscaling")
    return model if scaling is None else {**model, "replicas": min(model["replicas"], scaling["max"])}


@cache
def drawn_from(path: tuple[str, ...]) -> Strategy:
    """Strategy of what stands at a path of the schema; all properties are drawn but those that may be left out."""
    place: Any = schema()
    for part in path:
        place = place[part]
    if "$ref" in place:
        return drawn_from(("definitions", place["$ref"].rsplit("/", 1)[1]))
    strategy = _OVERRIDES[path] if path in _OVERRIDES else _by_type(place, path)
    if path == ("definitions", "cpus"):
        return _ordered(strategy, "request", "limit", key=_cores)
    if path[-1:] == ("autoscaling",) and "min" in place["properties"]:
        return _ordered(strategy, "min", "max", key=int)
    if path[-1:] == ("serviceMonitor",):
        return _ordered(strategy, "scrapeTimeout", "interval", key=_seconds)
    if path == ("definitions", "model"):
        return strategy.map(_scaled)
    if path[-1:] == ("certManager",):
        apart = strategy.filter(lambda it: _hours(it["renewBefore"]) < _hours(it["duration"]))
        return apart.map(lambda it: {**it, "clientDuration": it["duration"]})
    return strategy


def _by_type(place: Mapping[str, Any], path: tuple[str, ...]) -> Strategy:
    if "enum" in place:
        return st.sampled_from(place["enum"])
    kind = place["type"]
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(place["minimum"], place["maximum"])
    if kind == "string":
        pattern = place.get("pattern", "^[a-z]{1,8}$")
        return st.from_regex(pattern.removeprefix("^").removesuffix("$"), fullmatch=True)
    if kind == "array":
        strategy = st.lists(drawn_from((*path, "items")), min_size=place.get("minItems", 0), max_size=3)
        if path[-1] != "models":
            return strategy
        return strategy.map(lambda models: list({model["name"]: model for model in models}.values()))
    return _object(place, path)


def _object(place: Mapping[str, Any], path: tuple[str, ...]) -> Strategy:
    if "properties" not in place:
        names = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z]{1,5})?", fullmatch=True)
        further = place["additionalProperties"]
        values = drawn_from((*path, "additionalProperties")) if isinstance(further, dict) else st.just({})
        return st.dictionaries(names, values, max_size=2)
    named = {name: drawn_from((*path, "properties", name)) for name in place["properties"]}
    if path == ("definitions", "model"):
        required = {name: named[name] for name in place["required"]}
        strategy: Strategy = st.fixed_dictionaries(
            required, optional={k: v for k, v in named.items() if k not in required}
        )
    elif path == ("definitions", "tolerations", "items"):
        return st.just({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"})
    else:
        strategy = st.fixed_dictionaries(named)
    if "if" not in place:
        return strategy
    fits = jsonschema.Draft7Validator({**place, "definitions": schema()["definitions"]})
    return strategy.filter(fits.is_valid)


_OVERRIDES: dict[tuple[str, ...], Strategy] = {
    ("properties", "global"): st.just({}),
    ("definitions", "peers"): st.lists(_PEER, max_size=2),
    ("definitions", "nodeSettings"): _NODE_SETTINGS,
    ("definitions", "routerSettings"): _ROUTER_SETTINGS,
    ("definitions", "metrics"): st.lists(_METRIC, max_size=2),
    ("properties", "networkPolicy", "properties", "extraEgress"): st.lists(
        st.just({"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}]}), max_size=1
    ),
}


def whole() -> Strategy:
    """Values of everything, that the schema takes."""
    takes = jsonschema.Draft7Validator(schema())
    return drawn_from(()).filter(takes.is_valid)


def merged(values: Mapping[str, Any], over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Values laid over others, as helm does it; by default over the chart's own."""
    result: dict[str, Any] = dict(defaults() if over is None else over)
    for name, value in values.items():
        below = result.get(name)
        result[name] = merged(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return result
