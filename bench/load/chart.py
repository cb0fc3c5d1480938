"""What is served, and how late, over what is asked: one line a load."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from load.types import Row

_MARKS = "os^Dv"


def draw(rows: Sequence[Row], sums: Sequence[Row], caption: str, path: Path) -> None:
    """Write `path` as PNG, and beside it as SVG. Rates are relative to each load's own saturation point."""
    figure, (served, late) = plt.subplots(2, 1, sharex=True, figsize=(9, 8))
    for number, load in enumerate(sums):
        of_load = [row for row in rows if (row["path"], row["nodes"]) == (load["path"], load["nodes"])]
        points = sorted((row for row in of_load if row["phase"] != "afterwards"), key=lambda row: row["offered_rps"])
        whole = load["saturation_rps"]
        offered = [row["offered_rps"] / whole for row in points]
        label = f"{load['path']}, {load['nodes']} nodes: 1 is {whole:.3g}/s"
        mark = _MARKS[number % len(_MARKS)]
        served.plot(offered, [row["served_rps"] / whole for row in points], marker=mark, label=label)
        late.plot(offered, [row["p99_ms"] for row in points], marker=mark, label=label)
    served.axline((0, 0), slope=1, color="grey", linewidth=0.8, linestyle=":")
    served.set_ylim(0, 1.5)
    served.set_ylabel("answered in time, of the saturation point")
    served.legend(fontsize=8)
    late.set_yscale("log")
    late.set_xlabel("offered, of the saturation point")
    late.set_ylabel("p99 of what was answered in time, ms")
    for axes in (served, late):
        axes.grid(True, which="both", alpha=0.25)
    figure.text(0.02, 0.01, "\n".join(textwrap.wrap(caption, 150)), fontsize=6.5, va="bottom")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=130)
    figure.savefig(path.with_suffix(".svg"))
    plt.close(figure)
