"""Blends: quality against recomputed tokens and CPU time, for all policies and variants, beside full prefills.

Writes results/blend.json and results/blend.png (a smoke run: blend-quick.*). Finished cases are kept in
results/blend-cases.jsonl: a run that was cut off goes on there, as long as nothing that decides their outcome changed.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from blend import draw, rows
from blend.record import Line, Record
from blend.running import Run
from blend.sets import planned
from blend.trials import CODED, MORE_CODED, STUDIES, chosen
from kvquilt.demo.profile import made_once
from kvquilt_codec.errors import BadRequestError, KvquiltError
from kvquilt_codec.gate import Gate
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import file
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.evaluation.judge import ANSWER_TOKENS
from kvquilt_router.evaluation.run import stored
from kvquilt_router.profiles import read_profile
from report import RESULTS, publish

MODEL = "smollm2"
CONTEXT_TOKENS = 2000
QUICK_CASES, QUICK_TOKENS = 2, 600
SEQUENCE = "multi-hop"
"""Set whose cases `anchors` is tried on in order."""


def profile(model: LoadedModel, given: Path | None, console: Console) -> tuple[JointCoder, Gate | None]:
    """The codec profile, by default the demo model's, made if there is none; and the gate beside it."""

    def told(stage: str, done: int, total: int) -> None:
        console.print(f"{stage}: {done} of {total}")

    path = given or made_once(model, shipped_texts, lambda: console.print("calibrating, some minutes"), told)
    data = read_profile(path, model.fingerprint)
    coder = JointCoder(file.load(data), file.digest(data))
    try:
        gate = gate_file.load(gate_file.beside(path).read_bytes())
        gate_file.check(gate, model.fingerprint, coder.digest)
    except (OSError, KvquiltError) as error:
        console.print(f"no gate coverage: {error}")
        return coder, None
    return coder, gate


def main(arguments: argparse.Namespace) -> int:
    """Measure and publish; the exit code."""
    console = Console(stderr=True)
    if arguments.threads < 1:
        raise BadRequestError(f"expected at least one thread; got {arguments.threads}")
    # Threads that wait for each other would count as work; two runs over different sets use two cores better.
    torch.set_num_threads(arguments.threads)
    model = load_model(MODEL)
    quick = arguments.quick
    context_tokens = arguments.context_tokens or (QUICK_TOKENS if quick else CONTEXT_TOKENS)
    coder, gate = (None, None) if quick or arguments.no_profile else profile(model, arguments.profile, console)
    if coder is None:
        console.print("without a codec profile: no rows through the codec, no gate coverage")
    levels = {trial.level for trial in (*CODED, *MORE_CODED)}
    codecs = {} if coder is None else {level: stored(coder, level) for level in sorted(levels)}
    conditions: dict[str, object] = {
        "model": model.fingerprint,
        "profile": "none" if coder is None else coder.digest,
        "context_tokens": context_tokens,
        "torch": str(torch.__version__),
    }
    record = Record(arguments.record)
    if arguments.fresh:
        record.clear()
    trials = chosen(arguments.study, quick=quick, coded=coder is not None)
    sets = planned(model, context_tokens)
    if unknown := set(arguments.sets or ()) - sets.keys():
        raise BadRequestError(f"expected sets in {list(sets)}; got {sorted(unknown)}")
    runs = {}
    for name, each in sets.items():
        if arguments.sets and name not in arguments.sets:
            continue
        count = arguments.cases or (QUICK_CASES if quick else each.count)
        anchors = name == SEQUENCE and arguments.study == "more" and not quick
        tried = each.trials or trials
        runs[name] = Run(model, replace(each, count=count), tried, codecs, record, conditions, anchors=anchors)
    interrupted = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=1800
    ) as progress:
        task = progress.add_task("", total=sum(run.steps() for run in runs.values()))
        try:
            for run in runs.values():
                for said in run(lambda what, done: progress.update(task, description=what, advance=done)):
                    progress.console.print(said)
        except KeyboardInterrupt:
            interrupted = True
    lines = {name: [line for found in run.finished.values() for line in found] for name, run in runs.items()}
    show(lines, gate, conditions, arguments, console)
    if interrupted:
        console.print("interrupted: the same command goes on")
    return 130 if interrupted else 0


def show(
    lines: dict[str, list[Line]],
    gate: Gate | None,
    conditions: dict[str, object],
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    """Publish what is on record."""
    every = [line for found in lines.values() for line in found]
    if not every:
        console.print("no case is finished")
        return
    tokens = {line.case: line.tokens for line in every}
    cases = ", ".join(f"{len({line.case for line in found})} {name}" for name, found in lines.items() if found)
    said = {
        **conditions,
        "model": "SmolLM2-135M-Instruct, computing in float32",
        "cases": cases,
        "tokens": f"{fmean(tokens.values()):.0f} a prompt on average",
        "divergence": f"mean KL(full || blended) over the answer: {ANSWER_TOKENS} tokens that a full prefill decodes, "
        "or those that are given",
        "first_chunk": "in its exact context, whatever the variant",
        "intervals": "2 standard errors of the logarithms",
        "cpu": "process time of merging, choosing and computing; decoding of stored chunks is not in it",
    }
    made = rows.rows(lines)
    questions = [line for name in rows.QUESTIONS.split(" + ") for line in lines.get(name, [])]
    sections = {
        "edits": rows.edits(lines),
        "codec": rows.codec_growth(questions),
        "gate_coverage": rows.gate_coverage(questions, gate),
    }
    name = "blend-quick" if arguments.quick else "blend"
    written = publish(name, said, made, table=rows.table(made), **sections)
    chart = RESULTS / f"{name}.png"
    draw.draw(made, ", ".join(f"{key}: {value}" for key, value in said.items()), chart)
    if arguments.json:
        sys.stdout.buffer.write(written.read_bytes())
    Console(stderr=arguments.json).print(f"{written}\n{chart}", soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, metavar="N", help="of every set")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--context-tokens", type=int, metavar="N", help=f"about so many a case; {CONTEXT_TOKENS}")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch, from 1; 1")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few short cases, few trials")
    parser.add_argument(
        "--study", choices=STUDIES, default="core", help="warm-up: which passages to warm up with; more: every policy"
    )
    parser.add_argument("--no-profile", action="store_true", help="leave out what needs a codec profile")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="codec profile; by default the demo model's")
    parser.add_argument("--fresh", action="store_true", help="forget finished cases")
    parser.add_argument("--json", action="store_true", help="print the results file too")
    parser.add_argument(
        "--record", type=Path, default=RESULTS / "blend-cases.jsonl", metavar="FILE", help="of finished cases"
    )
    try:
        sys.exit(main(parser.parse_args()))
    except KvquiltError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
