"""Measures what ships of the demo model: its codec profile and two gates (`make demo-profile`).

The files go into `client/kvquilt/demo/measured`; docs/decisions/0042-measured-before.md says what they are for. The
gates are measured side by side, each by one thread: run it where two cores have nothing else to do, since their points
are ordered by CPU time. Every file is written when it is finished: interrupted, `--gates` goes on without learning the
profile anew.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch
import transformers

from kvquilt.demo.measured_before import CONDITIONS, FOLDER, PASSAGES_GATE, PROFILE, Conditions
from kvquilt.demo.profile import GRID
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import file
from kvquilt_router.calibration import calibrate, cut
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.calibration.progress import Progress
from kvquilt_router.calibration.texts import Corpus
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.gate.measure import measure_gate
from kvquilt_router.profiles import read_profile, write_whole
from ttft.texts import measured

CASES = 48
COMMAND = "make demo-profile"
THREADS = 1
"""Of each gate's process."""
CORPORA: dict[str, Callable[[LoadedModel], Corpus]] = {
    PASSAGES_GATE: measured,
    gate_file.beside(Path(PROFILE)).name: lambda model: cut(shipped_texts(), model.tokenise),
}
"""By the name of the gate's file."""


def telling(name: str) -> Progress:
    """Prints how far a file's measurement is, a line each time: two are measured side by side."""

    def told(stage: str, done: int, total: int) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {name}: {stage} {done}/{total}", flush=True)

    return told


def processor() -> str:
    """The CPU's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", action="store_true", help="take the profile as it is, and measure the gates")
    parser.add_argument("--cases", type=int, default=CASES, help=f"prompts of each gate (default {CASES})")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="to write the files to (default: where they ship)")
    given = parser.parse_args()
    profile = given.folder / PROFILE
    if not given.gates:
        write_whole(profile, file.dump(calibrate(load_model("smollm2"), shipped_texts(), progress=telling(PROFILE))))
    with ProcessPoolExecutor(len(CORPORA), get_context("spawn"), torch.set_num_threads, (THREADS,)) as processes:
        gates = {name: processes.submit(measured_gate, name, profile, given.cases) for name in CORPORA}
        for name, gate in gates.items():
            write_whole(profile.with_name(name), gate.result())
    write_whole(given.folder / CONDITIONS, msgspec.json.format(msgspec.json.encode(conditions())) + b"\n")
    return 0


def measured_gate(name: str, profile: Path, cases: int) -> bytes:
    """The file of one gate."""
    model = load_model("smollm2")
    data = read_profile(profile, model.fingerprint)
    coder = JointCoder(file.load(data), file.digest(data))
    grid = replace(GRID, cases=cases)
    return gate_file.dump(measure_gate(model, coder, CORPORA[name](model), grid, telling(name)))


def conditions() -> Conditions:
    """How this run measured."""
    return Conditions(COMMAND, processor(), THREADS, str(torch.__version__), transformers.__version__)


if __name__ == "__main__":
    sys.exit(main())
