"""KL over bits per element, one mark a method and level."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_MARKS = "os^Dv<>Ph*"


def draw(rows: Sequence[Mapping[str, Any]], caption: str, path: Path) -> None:
    """Write a PNG of the rows that have bits and a KL above 0 and fewer than 15 bits."""
    shown = [row for row in rows if row["kl"] and row["bits_per_element"] and row["bits_per_element"] < 15]
    figure, axes = plt.subplots(figsize=(9, 6.6))
    for number, method in enumerate(dict.fromkeys(row["method"] for row in shown)):
        own = method.startswith("kvquilt")
        points = sorted((row["bits_per_element"], row["kl"], row["level"]) for row in shown if row["method"] == method)
        style = {"color": "black", "linewidth": 1.6, "zorder": 3} if own else {"linewidth": 0.8, "alpha": 0.9}
        axes.plot(
            *zip(*(p[:2] for p in points), strict=True), marker=_MARKS[number % len(_MARKS)], label=method, **style
        )
        for *place, level in points:
            axes.annotate(level, place, textcoords="offset points", xytext=(6, 5), fontsize=7)
    axes.set_yscale("log")
    axes.set_xlim(0, 14)
    axes.set_xlabel("bits per KV element, everything stored included")
    axes.set_ylabel("KL(full prefill || codec) of the next token, nats")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8, loc="upper right")
    figure.text(0.02, 0.01, "\n".join(textwrap.wrap(caption, 150)), fontsize=6.5, va="bottom")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
