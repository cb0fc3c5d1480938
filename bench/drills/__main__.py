"""What happens to requests when a part fails, measured: `make drills`, or `python -m drills` (see docs/drills.md).

Ends with 1 if a request failed, a byte was wrong or something acknowledged was lost.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from drills import asking, load
from drills.run import DRILLS, run
from drills.stage import Outcome
from report import publish


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="drills", description="Failure drills with real processes and servers.")
    parser.add_argument(
        "--only", nargs="+", choices=DRILLS, default=list(DRILLS), metavar="NAME", help=", ".join(DRILLS)
    )
    parser.add_argument("--seconds", type=float, default=4.0, metavar="N", help="of load around each fault; 4")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the load and of the moments of faults; 0")
    parser.add_argument("--json", action="store_true", help="print the results file too")
    chosen = parser.parse_args()
    if chosen.seconds <= 0:
        parser.error(f"expected --seconds above 0; got {chosen.seconds:g}")
    return chosen


def drilled(names: list[str], seconds: float, seed: int) -> dict[str, Outcome]:
    """Outcomes by the drill's name; the progress is on the standard error output."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    outcomes: dict[str, Outcome] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            with tempfile.TemporaryDirectory(prefix="kvquilt-drill-") as folder:
                outcomes[name] = asyncio.run(run(name, Path(folder), seconds=seconds, seed=seed))
            progress.advance(task)
    return outcomes


def main() -> int:
    chosen = arguments()
    outcomes = drilled(chosen.only, chosen.seconds, chosen.seed)
    conditions: dict[str, Any] = {
        "seconds": chosen.seconds,
        "seed": chosen.seed,
        "load": f"{load.WORKERS} workers, {load.POPULATION} objects of 20 to 300 KiB, 30 % puts",
        "deadline_s": asking.DEADLINE,
        "margin_s": asking.MARGIN,
        **{name: outcome.how for name, outcome in outcomes.items() if outcome.how},
    }
    misses = [
        {"drill": name, "reason": reason, "misses": count}
        for name, outcome in outcomes.items()
        for reason, count in outcome.missed.items()
    ]
    path = publish("drills", conditions, [outcome.row(name) for name, outcome in outcomes.items()], misses=misses)
    if chosen.json:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    for name, outcome in outcomes.items():
        for problem in outcome.problems:
            sys.stderr.write(f"{name}: {problem}\n")
    return 1 if any(outcome.problems for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
