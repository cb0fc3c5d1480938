"""Rates that rise until something gives, then far beyond, then back: one load from its start to its rows."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from load.generator import closed, offered
from load.types import LATE, Done, Load, Row, Watched
from load.watch import GENERATOR, Watch

IN_TIME = 0.99
"""Share of requests that must be answered in time at a rate that counts as carried."""
BEYOND = (1.5, 2.0, 3.0)
"""Times the saturation point."""
BACK = 0.5
_MOST_RATES = 16
_LEAST = 0.1
_MANY = 2000
"""Requests from which on a 99.9th percentile says something."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and at which rates.

    Attributes:
        seconds: of one rate.
        first: rate, as a share of what a closed loop was served.
        factor: of each rate to the one before it.
    """

    seconds: float
    first: float
    factor: float


async def ramp(load: Load, plan: Plan, rng: random.Random, rows: list[Row], told: Callable[[str], None]) -> Row:
    """Load it at all rates; appends a row for each, and returns what they come to.

    The saturation point is the highest of the rising rates at which `IN_TIME` of all requests were answered in time; if
    there was none, the lowest that was tried.
    """
    watch = Watch(load)

    async def step(phase: str, rate: float) -> Row:
        told(f"{load.name}, {load.nodes} nodes: {phase} {rate:.3g}/s")
        async with watch.watching():
            began = time.perf_counter()
            done = await offered(load, rate, plan.seconds, rng)
            lasted = time.perf_counter() - began
            row = row_of(load, phase, plan.seconds, lasted, done, watch.seen())
        rows.append(row)
        await load.settle()
        return row

    told(f"{load.name}, {load.nodes} nodes: closed loop")
    about = await closed(load, load.workers, plan.seconds)
    await load.settle()
    carried: Row | None = None
    rate = plan.first * about
    for _ in range(_MOST_RATES):
        row = await step("rising", rate)
        if row["in_time"] >= IN_TIME:
            carried = row
            rate *= plan.factor
        elif carried is None and rate > _LEAST * about:
            rate /= 2  # the closed loop promised too much
        else:
            break
    saturation = rate if carried is None else carried["offered_rps"]
    beyond = [await step(f"{times:g} x saturation", times * saturation) for times in BEYOND]
    back = await step("afterwards", BACK * saturation)
    return {
        "path": load.name,
        "nodes": load.nodes,
        "deadline_s": load.deadline,
        "saturation_rps": saturation,
        "p99_ms_there": None if carried is None else carried["p99_ms"],
        "goodput_kept_beyond": min(row["served_rps"] for row in beyond) / saturation,
        "refused_p99_ms_beyond": max((row["refused_p99_ms"] or 0.0 for row in beyond), default=None),
        "late_or_timed_out_beyond": sum(row["late"] for row in beyond),
        "health_failed": sum(row["health_failed"] for row in rows[-len(beyond) - 1 :]),
        "node_peak_mib": max(row["peak_mib"] for row in beyond),
        "in_time_afterwards": back["in_time"],
    }


def row_of(load: Load, phase: str, seconds: float, lasted: float, done: Sequence[Done], seen: Watched) -> Row:
    """What came of one rate. Requests began for `seconds`, and the last one ended after `lasted`.

    What is answered after `seconds` is in no rate: a backlog would seem to be served.
    """
    answered = sorted(one.seconds for one in done if not one.outcome)
    served = sum(not one.outcome and one.at + one.seconds <= seconds for one in done)
    errors = Counter(one.outcome for one in done if one.outcome)
    late = errors[LATE] + errors["deadline"] + errors["given_up"]
    refused = sorted(one.seconds for one in done if one.outcome not in ("", LATE, "deadline", "given_up"))
    count = max(len(done), 1)
    return {
        "path": load.name,
        "nodes": load.nodes,
        "phase": phase,
        "offered_rps": len(done) / seconds,
        "served_rps": served / seconds,
        "in_time": len(answered) / count,
        "mb_s": sum(one.nbytes for one in done) / lasted / 1e6,
        "p50_ms": percentile(answered, 0.5),
        "p99_ms": percentile(answered, 0.99),
        "p999_ms": percentile(answered, 0.999) if len(answered) >= _MANY else None,
        "refused": len(refused),
        "refused_p99_ms": percentile(refused, 0.99),
        "late": late,
        "errors": dict(errors),
        **{f"cpu_ms_a_request_{name}": used / count * 1e3 for name, used in seen.cpu_seconds.items()},
        "generator_cores": seen.cpu_seconds[GENERATOR] / lasted,
        "generator_lag_p99_ms": percentile(sorted(one.lag for one in done), 0.99),
        "peak_mib": max(value for name, value in seen.peak_bytes.items() if name != "store") / (1 << 20),
        "health_p99_ms": percentile(sorted(seen.health_seconds), 0.99),
        "health_failed": seen.health_failed,
    }


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """In milliseconds: the smallest value that so large a share does not exceed; `None` of nothing."""
    if not ascending:
        return None
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] * 1e3
