"""Whether anything grows under ten minutes of mixed load, evictions and faults: `make soak`, or `python -m soak`.

Ends with 1 if memory, file descriptors or threads grew, a cap was exceeded, a lease was left, a request failed or a
byte was wrong.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from report import publish
from soak import load, verdict
from soak.run import CAPACITY, MEMORY, run

SHORTEST_SECONDS = 120


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Mixed load, evictions and faults for a while.")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="N", help="of load; 600")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the load and the faults; 0")
    parser.add_argument("--json", action="store_true", help="print the results file too")
    chosen = parser.parse_args()
    if chosen.seconds < SHORTEST_SECONDS:
        parser.error(f"expected --seconds of at least {SHORTEST_SECONDS}; got {chosen.seconds:g}")
    with tempfile.TemporaryDirectory(prefix="kvquilt-soak-") as folder, Console(stderr=True).status("soaking"):
        outcome = asyncio.run(run(Path(folder), seconds=chosen.seconds, seed=chosen.seed))
    conditions = {
        "seconds": chosen.seconds,
        "seed": chosen.seed,
        "capacity_bytes": CAPACITY,
        "memory_bytes": MEMORY,
        "objects": f"{load.OBJECTS} of 20 to 300 KiB of each of {len(load.TENANTS)} tenants in each of two stores",
        "requests": outcome.requests,
        "growth": "Theil-Sen over the last two thirds, with its interval",
        "confidence": verdict.CONFIDENCE,
        "flat_below": verdict.GROWTH,
    }
    faults = [{"fault": name, "times": times} for name, times in sorted(outcome.faults.items())]
    misses = [{"reason": reason, "misses": count} for reason, count in outcome.missed.items()]
    most = [{"bytes": name, "most": count} for name, count in outcome.most.items()]
    path = publish("soak", conditions, outcome.rows, faults=faults, misses=misses, most=most)
    if chosen.json:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    for problem in outcome.problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
