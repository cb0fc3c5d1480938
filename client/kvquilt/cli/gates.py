"""How a gate is shown, and found beside its profile."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kvquilt.cli.output import out
from kvquilt.states import ModelInfo
from kvquilt_codec.gate import Gate, file


def gate_beside(profile: Path, model_fingerprint: str, digest: str) -> bytes | None:
    """The file of the gate beside a profile's, if there is one.

    Raises:
        IntegrityError: it is no gate.
        FingerprintMismatchError: it is of another model or profile.
    """
    path = file.beside(profile)
    if not path.is_file():
        return None
    data = path.read_bytes()
    file.check(file.load(data), model_fingerprint, digest)
    return data


def points_of(gate: Gate | None) -> list[dict[str, Any]]:
    """What was measured, as JSON shows it."""
    points = () if gate is None else gate.points
    return [{name: getattr(point, name) for name in point.__struct_fields__} for point in points]


def print_gate(gate: Gate) -> None:
    """Show what was measured of each way to blend."""
    table = Table(
        "context", "level", "policy", "ratio", "KL", f"{gate.share:.0%} below", "top-1", "CPU", title="blend gate"
    )
    for point in sorted(gate.points, key=lambda point: (point.level, point.context, point.recompute_ratio)):
        table.add_row(
            point.context,
            point.level,
            point.policy,
            f"{point.recompute_ratio:.0%}",
            f"{point.kl_geomean:.2e}",
            f"{point.kl_upper:.2e}",
            f"{point.top1_agreement:.1%}",
            f"{point.cpu_share:.2f}",
        )
    out.print(table)
    measured = f"KL(full || blended) of {gate.answer_tokens} answer tokens, nats; {gate.texts}"
    out.print(measured, soft_wrap=True, markup=False)


def print_audited(model: ModelInfo) -> None:
    """Show a router's gate, and what audits of all routers found of its points."""
    gate = model.gate
    if gate.missing_reason:
        out.print(f"{model.name}: no gate in force: {gate.missing_reason}", markup=False)
    if not gate.points:
        return
    table = Table(title=f"gate of {model.name}", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("POLICY:RATIO CONTEXT LEVEL", "KL bound", "beyond it", "lifts"):
        table.add_column(name, no_wrap=True)
    table.add_column("state", no_wrap=True, min_width=len("WITHDRAWN"))
    for point in sorted(gate.points, key=lambda point: (point.level, point.context, point.recompute_ratio)):
        table.add_row(
            f"{point.policy}:{point.recompute_ratio:g} {point.context} {point.level}",
            f"{point.kl_upper:.2e}",
            f"{point.audits_exceeded} of {point.audits}",
            str(point.lifts),
            "WITHDRAWN" if point.withdrawn else "in force",
        )
    out.print(table)
