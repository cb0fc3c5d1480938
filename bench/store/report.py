"""The tables of `make bench-store`: what each way delivers, and which figures are reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from store.measure import Measured, ratios
from store.ways import (
    BARE,
    FILE,
    NODE_FILE,
    NODE_MEMORY,
    NODE_MEMORY_SHARED,
    NODE_REDIS,
    NODE_REDIS_SHARED,
    OBSTORE,
    REDIS_FRAMES,
    REDIS_VALUE,
)

BASELINES: Mapping[str, str] = {
    NODE_REDIS: REDIS_FRAMES,
    NODE_REDIS_SHARED: REDIS_FRAMES,
    REDIS_VALUE: REDIS_FRAMES,
    BARE: REDIS_FRAMES,
    NODE_MEMORY: BARE,
    NODE_MEMORY_SHARED: BARE,
    NODE_FILE: BARE,
    OBSTORE: FILE,
}
"""What each way is compared with, round by round."""

FIGURES = (
    (NODE_REDIS, REDIS_FRAMES, 0.5),
    (NODE_REDIS, REDIS_VALUE, 0.5),
    (NODE_MEMORY, BARE, 0.7),
)
"""Which share of what a get is to reach."""


@dataclass(frozen=True, slots=True)
class Case:
    """What was measured together: "get", "get in one request" or "put", objects of so many bytes, so many at once."""

    action: str
    nbytes: int
    at_once: int


def rows_of(case: Case, measured: Measured) -> list[dict[str, Any]]:
    """A row for each way."""
    rows = []
    for name, samples in sorted(measured.items()):
        other = BASELINES.get(name)
        other = other if other in measured else None  # not everything can be put
        low, middle, high = (None,) * 3 if other is None else ratios(samples, measured[other])
        rows.append(
            {
                "action": case.action,
                "object_bytes": case.nbytes,
                "at_once": case.at_once,
                "way": name,
                "mb_s": samples.rate,
                "cpu_s_per_gb": samples.cpu_per_gb,
                "compared_with": other,
                "cpu_ratio": None if other is None else measured[other].cpu_per_gb / samples.cpu_per_gb,
                "ratio": middle,
                "ratio_quartiles": None if other is None else [low, high],
            }
        )
    return rows


def figures_of(case: Case, measured: Measured) -> list[dict[str, Any]]:
    """What of the figures this case measured."""
    if case.action == "put":
        return []
    return [
        _figure(
            f"{way} / {other}",
            f"{case.action}: {case.nbytes} bytes, {case.at_once} at once",
            f">= {least}",
            found,
            found >= least,
        )
        for way, other, least in FIGURES
        for _, found, _ in [ratios(measured[way], measured[other])]
    ]


def figures_of_trips(trips: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether a look-up is one round trip, to each node and to an index in Redis."""
    found = []
    for row in trips:
        most = max(*row["calls_of_each_node"], row["requests_to_redis"])
        case = f"{row['nodes']} nodes, index in {row['index']}"
        found.append(_figure(row["look_up"], case, "1 round trip", most, most <= 1))
    return found


def _figure(name: str, case: str, wanted: str, measured: float, reached: bool) -> dict[str, Any]:
    return {
        "figure": name,
        "case": case,
        "wanted": wanted,
        "measured": measured,
        "is": "reached" if reached else "missed",
    }
