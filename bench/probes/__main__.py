"""What a tenant can find out of another's objects: `make probes`, or `python -m probes` (see docs/drills.md).

Ends with 1 if a probe hit, if look-up times tell another's keys from absent ones, or if the test of that has no power.
"""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from probes import run, timing
from report import publish


def main() -> int:
    parser = argparse.ArgumentParser(prog="probes", description="Probes of one tenant for another's objects.")
    parser.add_argument("--probes", type=int, default=100_000, metavar="N", help="how many; 100000")
    parser.add_argument("--calls", type=int, default=4000, metavar="N", help="timed look-ups of each kind; 4000")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of timed look-ups; 0")
    parser.add_argument("--json", action="store_true", help="print the results file too")
    chosen = parser.parse_args()
    if chosen.probes < 1000 or not (chosen.calls == 0 or chosen.calls >= 100):
        parser.error("expected --probes of at least 1000, and --calls 0 or at least 100")
    with tempfile.TemporaryDirectory(prefix="kvquilt-probes-") as folder, Console(stderr=True).status("probing"):
        outcome = asyncio.run(run.run(Path(folder), probes=chosen.probes, calls=chosen.calls, seed=chosen.seed))
    conditions = {
        "probes": sum(one.probes for one in outcome.probed),
        "hits": sum(one.hits for one in outcome.probed),
        "stored_objects": run.OBJECTS,
        "keys_a_call": f"{timing.KEYS}; 1 of a read",
        "alpha": timing.ALPHA,
        "margin": timing.MARGIN,
        "seed": chosen.seed,
    }
    times = [one.row() for one in outcome.times]
    path = publish("probes", conditions, [asdict(one) for one in outcome.probed], times=times)
    if chosen.json:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    for problem in outcome.problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
