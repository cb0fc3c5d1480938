"""`kvquilt demo`: runs the demo and shows what it measured."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kvquilt.cli.options import Json
from kvquilt.cli.output import err, explained, print_json

if TYPE_CHECKING:
    from kvquilt.demo.rows import MeasuredLevel


def demo(
    model: Annotated[str, typer.Option(help='Folder of a Hugging Face model, or "smollm2".')] = "smollm2",
    max_tokens: Annotated[int, typer.Option(min=1, max=512, help="Longest answer.")] = 32,
    runs: Annotated[int, typer.Option(min=1, max=99, help="TTFT is the median of this many runs, both ways.")] = 1,
    profile: Annotated[
        str,
        typer.Option(help="Codec profile: a file, empty for none, or auto: that of smollm2, with a gate of its own."),
    ] = "auto",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure profile and gate of smollm2 here, once (minutes), and leave those that ship."
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file.")] = None,
    as_json: Json = False,
) -> None:
    """Show kvquilt's main job on a real model, and measure it against a full prefill.

    Starts a server on free ports with a store in a temporary folder, prefetches ten passages, asks questions over them
    in orders that it never saw, over passages that it saw in this order, and in a conversation; restarts the server and
    asks again.
    """
    started = time.monotonic()
    with explained(as_json), tempfile.TemporaryDirectory(prefix="kvquilt-demo-") as folder:
        from kvquilt.demo.corpus import passages
        from kvquilt.demo.profile import proof as proof_of  # imports torch
        from kvquilt.demo.rows import Measured, results
        from kvquilt.demo.run import run
        from kvquilt.demo.show import show_levels, show_proof, show_question, show_summary

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        rows: list[Measured] = []
        levels: list[MeasuredLevel] = []
        with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("loading the model", total=None)
            proof = proof_of(
                profile,
                model,
                measure,
                err.print,
                lambda stage, done, total: progress.update(task, description=f"calibrating: {stage} {done}/{total}"),
            )
            if not as_json:
                show_proof(proof)
            steps = run(
                Path(folder),
                model,
                proof,
                max_tokens,
                runs,
                told=lambda step: progress.update(task, description=step),
                prefetched=lambda item: progress.update(task, description=f"prefetched {item.done}/{item.total}"),
            )
            for measured in steps:
                if not isinstance(measured, Measured):
                    levels.append(measured)
                    continue
                rows.append(measured)
                if not as_json and not measured.restarted:
                    show_question(measured)
        seconds = time.monotonic() - started
        figures = results(rows, levels, model, proof, runs, len(passages()), seconds)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
        if as_json:
            print_json(figures)
        else:
            show_levels(levels)
            show_summary(rows, seconds, output)
