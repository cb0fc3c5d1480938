"""Runs policies at capacities on a trace, beside the bound, and draws what came of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kvquilt.simulator.replay import belady_of, replay
from kvquilt.simulator.types import Trace
from kvquilt_cache_node.eviction import make_policy
from kvquilt_codec.errors import NotFoundError

BELADY = "belady"


@dataclass(frozen=True, slots=True)
class Row:
    """A policy on a trace at a capacity.

    Attributes:
        hit_rate, prefix_hit_rate, saved_share: see `Outcome`.
        vs_belady: hit rate, divided by the bound's; `None` where nothing can hit.
    """

    trace: str
    policy: str
    capacity_bytes: int
    capacity_share: float
    hit_rate: float
    prefix_hit_rate: float
    saved_share: float
    vs_belady: float | None


Progress = Callable[[str, int, int], None]
"""Told the policy, the capacity and how many requests are done."""


def simulate(trace: Trace, capacities: Sequence[int], policies: Sequence[str], progress: Progress) -> Iterator[Row]:
    """A row as soon as it is known: at each capacity the bound first, then the policies in the order given.

    `random` draws the same victims every time.

    Raises:
        BadRequestError: an unknown policy.
    """
    for capacity in capacities:
        bound = 0.0
        for name in (BELADY, *(name for name in policies if name != BELADY)):
            # Random draws here choose victims, not secrets.
            own = belady_of(trace) if name == BELADY else make_policy(name, capacity, Random(0))  # noqa: S311

            def step(done: int, name: str = name, capacity: int = capacity) -> None:
                progress(name, capacity, done)

            outcome = replay(trace, own, capacity, bypass=name == BELADY, progress=step)
            if name == BELADY:
                bound = outcome.hit_rate
            yield Row(
                trace.name,
                name,
                capacity,
                capacity / trace.unique_bytes if trace.unique_bytes else 1.0,
                outcome.hit_rate,
                outcome.prefix_hit_rate,
                outcome.saved_share,
                outcome.hit_rate / bound if bound else None,
            )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a chart of hit rates over capacity, a panel a trace.

    Raises:
        NotFoundError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise NotFoundError("expected matplotlib, which draws charts: pip install 'kvquilt[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    traces = list(dict.fromkeys(row.trace for row in rows))
    figure, panels = plt.subplots(1, len(traces), figsize=(6.4 * len(traces), 4.8), squeeze=False)
    for axes, trace in zip(panels[0], traces, strict=True):
        for policy in dict.fromkeys(row.policy for row in rows):
            points = sorted(
                (row.capacity_share, row.hit_rate) for row in rows if (row.trace, row.policy) == (trace, policy)
            )
            style = {"color": "grey", "linestyle": "--"} if policy == BELADY else {"marker": "o", "markersize": 3}
            axes.plot(*zip(*points, strict=True), label=policy, **style)
        axes.set_xscale("log")
        axes.set_xlabel("capacity, share of the trace's unique bytes")
        axes.set_ylabel("share of blocks found")
        axes.set_title(trace, fontsize=9)
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
