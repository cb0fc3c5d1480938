"""The common frame of benchmark results (docs/development.md): one JSON file and one table a benchmark."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from kvquilt_rpc.version import VERSION

RESULTS = Path(__file__).parent / "results"
Rows = Sequence[Mapping[str, Any]]


def publish(
    name: str, conditions: Mapping[str, Any], rows: Rows, *, table: Rows | None = None, **sections: Rows
) -> Path:
    """Write `results/NAME.json` and print it.

    Args:
        name: of the benchmark.
        conditions: that it was run under; the machine is added.
        rows: what was measured.
        table: printed in place of the rows, where those are too wide.
        sections: further rows, under their names.
    """
    machine = {"threads": torch.get_num_threads(), "cpu": _cpu(), "torch": str(torch.__version__)}
    frame = {"name": name, "version": VERSION, "conditions": {**conditions, **machine}, "rows": list(rows)}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(frame | sections)) + b"\n")
    for title, shown in sections.items():
        if shown:
            Console(width=160).print(_table(shown, title=title.replace("_", " ")))
    caption = ", ".join(f"{key}: {value}" for key, value in frame["conditions"].items())
    Console(width=160).print(_table(rows if table is None else table, caption=caption))
    return path


def _table(rows: Rows, **options: Any) -> Table:
    table = Table(*(key.replace("_", " ") for key in rows[0]), **options)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " .. ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    """The processor's name where Linux tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
