"""`kvquilt calibrate`: makes a model's codec profile, and measures its blend gate."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvquilt.cli.gates import points_of, print_gate
from kvquilt.cli.options import Json, way
from kvquilt.cli.output import err, explained, out, print_json, size
from kvquilt.cli.texts import read_texts

if TYPE_CHECKING:
    from kvquilt_codec.gate import Gate
    from kvquilt_codec.profile import Profile


def calibrate(
    output: Annotated[Path, typer.Option(help="Write the profile to this file, and the gate beside it.")],
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
    gate_cases: Annotated[
        int, typer.Option(min=0, help="Prompts that the gate is measured on, 4 or more; 0 measures none.")
    ] = 24,
    gate_policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:RATIO", help="Measure this recompute policy too. Repeatable."),
    ] = None,
    gate_only: Annotated[
        bool, typer.Option("--gate-only", help="Take the profile in --output as it is, and measure the gate anew.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn how a model's KV is best stored, and measure what each level and each way to blend costs and does.

    Takes minutes. A fifth of the texts is held out: the figures are measured on those, and hold for texts of the same
    kinds. Name the file in router.profile; the router finds the gate beside it. Interrupted while the gate is measured,
    the profile is kept: go on with --gate-only.
    """
    with explained(as_json):
        from kvquilt_codec.gate import file as gate_file
        from kvquilt_codec.joint import JointCoder
        from kvquilt_codec.profile import file  # numpy and safetensors
        from kvquilt_router.calibration import calibrate as learn
        from kvquilt_router.calibration import cut  # imports torch
        from kvquilt_router.calibration.corpus import shipped_texts
        from kvquilt_router.engine import load_model
        from kvquilt_router.gate.measure import Grid, measure_gate
        from kvquilt_router.profiles import read_profile, write_whole

        ways = [way(text) for text in gate_policy or ()]
        found = read_texts(texts) if texts else shipped_texts()
        started = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        gate: Gate | None = None
        with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("loading the model", total=None)

            def told(stage: str, done: int, total: int) -> None:
                progress.update(task, description=stage, completed=done, total=total)

            loaded = load_model(model, dtype=dtype)
            if gate_only:
                data = read_profile(output, loaded.fingerprint)
            else:
                data = file.dump(learn(loaded, found, kl_target=kl, quality_layers=quality_layers, progress=told))
                write_whole(output, data)
            profile, digest = file.load(data), file.digest(data)
            if gate_cases:
                coder = JointCoder(profile, digest)
                grid = Grid(ways=(*Grid().ways, *ways), cases=gate_cases)
                gate = measure_gate(loaded, coder, cut(found, loaded.tokenise), grid, told)
                write_whole(gate_file.beside(output), gate_file.dump(gate))
        if as_json:
            print_json(_machine(output, profile, digest, len(data), gate, time.perf_counter() - started))
        else:
            _show(output, profile, digest, len(data), gate)


def _machine(
    output: Path, profile: "Profile", digest: str, length: int, gate: "Gate | None", seconds: float
) -> dict[str, object]:
    history = max(
        (0 if layer.predictor is None else len(layer.predictor) // layer.channels) for layer in profile.layers
    )
    return {
        "profile": str(output),
        "digest": digest,
        "bytes": length,
        "seconds": seconds,
        "layers_predicted_from": history,
        "step": profile.step,
        "texts": profile.texts,
        "levels": profile.cards,
        "gate": points_of(gate),
    }


def _show(output: Path, profile: "Profile", digest: str, length: int, gate: "Gate | None") -> None:
    table = Table("level", "bits per element", "KL", "top-1", title=f"{output}, {size(length)}")
    for card in reversed(profile.cards):
        table.add_row(card.level, f"{card.bits_per_element:.2f}", f"{card.kl:.2e}", f"{card.top1_agreement:.1%}")
    out.print(table)
    out.print(f"digest {digest}\nlearned from {profile.texts}", soft_wrap=True)
    if gate is None:
        out.print("no gate was measured: routers will use chunks in their exact context only")
        return
    print_gate(gate)
