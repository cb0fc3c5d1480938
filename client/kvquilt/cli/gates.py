"""How a gate is shown, and found beside its profile."""

from pathlib import Path
from typing import Any

from rich.table import Table

from kvquilt.cli.output import out
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
