"""What must hold of a soak's samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inference import slope
from soak.sampling import Sample

GROWTH = 0.05
"""Share of its median by which the memory of a process may have grown over the last two thirds, at most."""
CONFIDENCE = 0.95
BLOCK = 5
"""Samples that are averaged before the slope: neighbouring ones are too alike to count as many."""
SHORTEST = 90
"""Samples without which nothing is said of growth; one takes a little more than a second."""
MORE = 12
"""File descriptors and threads that a process may have beyond those at the start: connections to Redis that it had no
use for before (`node.redis_connections` and a few), and threads of pools that had not grown."""


def growth(samples: Sequence[Sample], process: str) -> dict[str, Any]:
    """How the memory of a process grew over the last two thirds, as a row of the table.

    The growth is the Theil-Sen slope over means of 5 s, times the time. It is flat if the upper end of the slope's 95 %
    interval makes less than 5 % of the median.
    """
    series = np.array([sample[f"{process} rss_bytes"] for sample in samples])
    middle, last = (float(np.median(third)) for third in np.array_split(series, 3)[1:])
    row: dict[str, Any] = {"process": process, "rss_middle_mib": middle / 2**20, "rss_last_mib": last / 2**20}
    if len(series) < SHORTEST:
        return row | {"growth": None, "growth_low": None, "growth_high": None, "flat": None}
    later = series[len(series) // 3 :]
    blocks = later[: len(later) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
    found, scale = slope(blocks, CONFIDENCE), len(blocks) / float(np.median(later))
    shares = {"growth": found.estimate * scale, "growth_low": found.low * scale, "growth_high": found.high * scale}
    return row | shares | {"flat": shares["growth_high"] < GROWTH}


def handles(first: Sample, last: Sample, samples: Sequence[Sample], process: str) -> dict[str, Any]:
    """File descriptors and threads of a process: at rest before and after, and the most in between."""
    row: dict[str, Any] = {}
    for figure in ("fds", "threads"):
        name = f"{process} {figure}"
        row |= {f"{figure}_start": int(first[name]), f"{figure}_end": int(last[name])}
        row[f"{figure}_most"] = int(max(sample[name] for sample in samples))
    return row


def problems(
    rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample], caps: Mapping[str, int], left: Mapping[str, int]
) -> list[str]:
    """All that must not be, in words.

    Args:
        rows: a process each.
        samples: all.
        caps: most bytes, by the figure's name.
        left: what should be none at the end, by name.
    """
    found = []
    for row in rows:
        if row["flat"] is False:
            found.append(f"the memory of {row['process']} grows: by up to {row['growth_high']:.1%}")
        found += [
            f"{row['process']} has {row[f'{figure}_end']} {figure}, {row[f'{figure}_start']} at the start"
            for figure in ("fds", "threads")
            if row[f"{figure}_end"] > row[f"{figure}_start"] + MORE
        ]
    for name, cap in caps.items():
        most = max(sample.get(name, 0.0) for sample in samples)
        if most > cap:
            found.append(f"expected at most {cap} {name}; there were {most:.0f}")
    return found + [f"expected no {name} at the end; there are {count}" for name, count in left.items() if count]
