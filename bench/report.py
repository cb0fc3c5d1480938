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


def publish(name: str, conditions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `results/NAME.json` and print the rows."""
    machine = {"threads": torch.get_num_threads(), "cpu": platform.machine(), "torch": str(torch.__version__)}
    frame = {"name": name, "version": VERSION, "conditions": {**conditions, **machine}, "rows": list(rows)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(frame)) + b"\n")
    table = Table(*rows[0], caption=", ".join(f"{key}: {value}" for key, value in frame["conditions"].items()))
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
