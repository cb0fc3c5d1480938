"""`kvquilt calibrate`: makes a model's codec profile."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvquilt.cli.options import Json
from kvquilt.cli.output import err, explained, out, print_json, size
from kvquilt.documents import read_documents


def calibrate(
    output: Annotated[Path, typer.Option(help="Write the profile to this file.")],
    model: Annotated[str, typer.Argument(help='Folder of a Hugging Face model, or "smollm2".')] = "smollm2",
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text file or folder to learn from. Repeatable. Default: English texts that come with kvquilt."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Type to compute in; that of the router.")] = "float32",
    kl: Annotated[float, typer.Option(min=1e-6, max=1, help="KL target of the finest level, in nats.")] = 5e-4,
    quality_layers: Annotated[int, typer.Option(min=1, max=3, help="Levels of a stored chunk: high, medium, low.")] = 2,
    as_json: Json = False,
) -> None:
    """Learn how a model's KV is best stored, and measure what each level costs and does.

    Takes minutes. A fifth of the texts is held out: the figures are measured on those, and hold for texts of the same
    kinds. Name the file in router.profile, or store it on the node with `kvquilt profile put` and name its digest.
    """
    with explained(as_json):
        from kvquilt_codec.profile import file  # numpy and safetensors
        from kvquilt_router.calibration import Text  # imports torch
        from kvquilt_router.calibration import calibrate as learn
        from kvquilt_router.calibration.corpus import shipped_texts
        from kvquilt_router.engine import load_model

        found = (
            [Text(document.document_id, str(document.content)) for document in read_documents(texts)]
            if texts
            else shipped_texts()
        )
        started = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("loading the model", total=None)
            loaded = load_model(model, dtype=dtype)
            profile = learn(
                loaded,
                found,
                kl_target=kl,
                quality_layers=quality_layers,
                progress=lambda stage, done, total: progress.update(
                    task, description=stage, completed=done, total=total
                ),
            )
        data = file.dump(profile)
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(output.name + ".partial")
        partial.write_bytes(data)
        partial.rename(output)
        history = max(
            (0 if layer.predictor is None else len(layer.predictor) // layer.channels) for layer in profile.layers
        )
        if as_json:
            print_json(
                {
                    "profile": str(output),
                    "digest": file.digest(data),
                    "bytes": len(data),
                    "seconds": time.perf_counter() - started,
                    "layers_predicted_from": history,
                    "step": profile.step,
                    "texts": profile.texts,
                    "levels": profile.cards,
                }
            )
            return
        table = Table("level", "bits per element", "KL", "top-1", title=f"{output}, {size(len(data))}")
        for card in reversed(profile.cards):
            table.add_row(card.level, f"{card.bits_per_element:.2f}", f"{card.kl:.2e}", f"{card.top1_agreement:.1%}")
        out.print(table)
        out.print(f"digest {file.digest(data)}\nlearned from {profile.texts}", soft_wrap=True)
