"""`kvquilt demo`: runs the demo and shows what it measured."""

import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvquilt.cli.options import Json
from kvquilt.cli.output import err, explained, out, print_json, size

if TYPE_CHECKING:
    from kvquilt.demo.run import Measured, MeasuredLevel


def demo(
    model: Annotated[str, typer.Option(help='Folder of a Hugging Face model, or "smollm2".')] = "smollm2",
    max_tokens: Annotated[int, typer.Option(min=1, max=512, help="Longest answer.")] = 32,
    runs: Annotated[int, typer.Option(min=1, max=99, help="TTFT is the median of this many runs, both ways.")] = 3,
    profile: Annotated[
        str,
        typer.Option(
            help="Codec profile: a file, empty for none, or auto: that of smollm2, made on first use (minutes)."
        ),
    ] = "auto",
    output: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file.")] = None,
    as_json: Json = False,
) -> None:
    """Show kvquilt's main job on a real model, and measure it against a full prefill.

    Starts a server on free ports with a store in a temporary folder, prefetches ten passages, asks three questions
    over them in orders that it never saw, restarts the server and asks again.
    """
    with explained(as_json), tempfile.TemporaryDirectory(prefix="kvquilt-demo-") as folder:
        from kvquilt.demo.profile import profile_setting  # imports torch
        from kvquilt.demo.run import Measured, MeasuredLevel, results, run

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        rows: list[Measured] = []
        levels: list[MeasuredLevel] = []
        with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("", total=None)
            profile = profile_setting(
                profile,
                model,
                lambda: err.print("measuring the demo model: once, some minutes"),
                lambda stage, done, total: progress.update(task, description=f"calibrating: {stage} {done}/{total}"),
            )
            steps = run(
                Path(folder),
                model,
                profile,
                max_tokens,
                runs,
                told=lambda step: progress.update(task, description=step),
                prefetched=lambda item: progress.update(task, description=f"prefetched {item.done}/{item.total}"),
            )
            for measured in steps:
                if isinstance(measured, MeasuredLevel):
                    levels.append(measured)
                    continue
                rows.append(measured)
                if not as_json:
                    _show(measured)
        figures = results(rows, levels, model, profile, runs)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
        if as_json:
            print_json(figures)
        else:
            _show_levels(levels)
            _summary(rows, output)


def _show(measured: "Measured") -> None:
    row = measured.row()
    when = "after the restart" if measured.restarted else "chunks in a new order"
    table = Table(title=f"{measured.question}  [dim]({when})[/]", title_justify="left", show_header=False)
    ratio = row["ttft_kvquilt_s"] / row["ttft_full_s"]
    table.add_row(
        "TTFT", f"{row['ttft_full_s']:.2f} s full prefill, {row['ttft_kvquilt_s']:.2f} s kvquilt ({ratio:.2f}x)"
    )
    table.add_row(
        "tokens",
        f"{row['tokens_exact']} exact, {row['tokens_reused']} reused, {row['tokens_recomputed']} recomputed, "
        f"{row['tokens_computed']} computed; {row['chunks'] - row['chunks_missed']}/{row['chunks']} chunks hit",
    )
    table.add_row("fetched", f"{size(row['bytes_fetched'])} ({size(row['bytes_bf16'])} as bf16)")
    table.add_row(
        "difference",
        f"answer KL {row['answer_kl']:.3f} ({_predicted(row['predicted_kl'])}), "
        f"top-1 agreement over the answer {row['top1_agreement']:.0%}",
    )
    if row["gate_refusal"]:
        table.add_row("blend", f"refused by the gate ({row['gate_refusal']}): exact reuse only")
    else:
        table.add_row("blend", f"{row['policy']}, {row['recompute_ratio']:.0%} of the tokens whose context changed")
    table.add_row("full prefill says", row["answer_full"])
    table.add_row("kvquilt says", row["answer"])
    out.print(table)


def _predicted(kl: float | None) -> str:
    return "nothing predicted" if kl is None else f"predicted below {kl:.2g}"


def _show_levels(levels: "list[MeasuredLevel]") -> None:
    if not levels:
        out.print("no codec profile: documents are stored in 8 bits per element")
        return
    table = Table(
        "level",
        "fetched",
        "of bf16",
        "answer KL",
        "predicted",
        "top-1",
        title="The last question at every level, from the same stored objects",
    )
    for level in levels:
        table.add_row(
            level.level,
            size(level.bytes_fetched),
            f"{level.bytes_fetched / level.bytes_bf16:.0%}",
            f"{level.answer_kl:.3f}",
            _predicted(level.predicted_kl),
            f"{level.top1_agreement:.0%}",
        )
    out.print(table)


def _summary(rows: "list[Measured]", output: Path | None) -> None:
    ratios = [measured.ttft_kvquilt_s / measured.ttft_full_s for measured in rows]
    out.print(
        f"TTFT with kvquilt: {median(ratios):.2f} of a full prefill (median of {len(rows)}; worst {max(ratios):.2f})"
    )
    again = [m.row() for m in rows if m.restarted]
    chunks = sum(row["chunks"] for row in again)
    out.print(f"after the restart: {chunks - sum(row['chunks_missed'] for row in again)} of {chunks} chunks hit")
    if output is not None:
        out.print(f"figures: {output}")
    out.print(
        "\nNext:\n"
        "  kvquilt serve                                              # a server that keeps its store\n"
        "  kvquilt prefetch README.md docs                            # your own files\n"
        '  kvquilt ask "What is a variant?" --doc docs/concepts.md --compare',
        markup=False,
    )
