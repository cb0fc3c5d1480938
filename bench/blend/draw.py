"""KL relative to CacheBlend over CPU time, one line a policy and variant."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from blend.trials import DEFAULT
from blend.types import DEFAULT_WARM_UP

_MARKS = "os^Dv<>Ph*"


def draw(rows: Sequence[Mapping[str, Any]], caption: str, path: Path) -> None:
    """Write a PNG of the first set's rows that went through no codec."""
    shown = [
        row
        for row in rows
        if row["set"] == rows[0]["set"]
        and not row["level"]
        and row["kl_vs_cacheblend10"]
        and row["warm_up"] in ("", DEFAULT_WARM_UP)
        and row["policy"] != "full"
    ]
    figure, axes = plt.subplots(figsize=(10, 7.2))
    for number, (policy, variant) in enumerate(dict.fromkeys((row["policy"], row["variant"]) for row in shown)):
        points = sorted(
            (row["cpu_vs_full"], row["kl_vs_cacheblend10"], row["recompute_ratio"], *row["kl_vs_cacheblend10_ci"])
            for row in shown
            if (row["policy"], row["variant"]) == (policy, variant)
        )
        style = {"linewidth": 1.6, "zorder": 3} if policy == DEFAULT else {"linewidth": 0.8, "alpha": 0.8}
        place = [point[0] for point in points], [point[1] for point in points]
        errors = [[p[1] - p[3] for p in points], [p[4] - p[1] for p in points]]
        # With one case the interval is everything.
        axes.errorbar(
            *place,
            yerr=None if max(errors[1]) == float("inf") else errors,
            marker=_MARKS[number % len(_MARKS)],
            elinewidth=0.5,
            capsize=2,
            label=f"{policy}, {variant}",
            **style,
        )
        if policy == DEFAULT:
            for cpu, kl, ratio, *_ in points:
                axes.annotate(f"{ratio:.0%}", (cpu, kl), textcoords="offset points", xytext=(6, 5), fontsize=7)
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xlabel("CPU time relative to a full prefill")
    axes.set_ylabel("KL(full || blended) relative to CacheBlend 10 % on chunks computed alone")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=6.5, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.text(0.02, 0.01, "\n".join(textwrap.wrap(caption, 165)), fontsize=6.5, va="bottom")
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
