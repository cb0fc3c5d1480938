"""The vocabulary of choosing. Read this file first; what was measured is in `kvquilt_codec.gate`."""

from dataclasses import dataclass

from kvquilt_codec.gate import GatePoint

REFUSALS = ("no_gate", "not_measured", "above_limit", "withdrawn", "withdrawals_unknown")
"""Why chunks whose context changed are not used; docs/reference.md says what each means."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a prompt is blended.

    Attributes:
        policy: by name.
        recompute_ratio: share of the reused tokens to recompute.
        predicted_kl: what the divergence stays below, by measurement; `None`: nothing is known about it.
        points: the operating points that the prediction rests on, the worst first.
        refusal: why chunks whose context changed are not used; empty if they are. One of `REFUSALS`.
    """

    policy: str
    recompute_ratio: float
    predicted_kl: float | None
    points: tuple[GatePoint, ...] = ()
    refusal: str = ""
