"""The vocabulary of `kvquilt verify`: what follows from its checks (`kvquilt.checks`). Read this file first."""

from dataclasses import dataclass
from enum import StrEnum

from kvquilt.checks import Check


class Recommendation(StrEnum):
    """Whether kvquilt pays where it was verified."""

    ON = "on"
    EXACT_ONLY = "exact_only"
    OFF = "off"
    UNKNOWN = "unknown"
    """It was not measured, or only in part."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Time to first token of one prompt, medians, in seconds; `None`: not measured.

    Attributes:
        tokens: of the documents in the prompt.
        repeats: how many of each.
        exact_s: until its KV had come to this process, all documents stored in their exact context.
        blended_s: the same, documents stored in other contexts.
        router_s: until KV that the router computed itself had come.
        prefill_s: what the router's model takes for it without transfer.
        engine_s: what the engine takes for a prompt of as many tokens by itself.
    """

    tokens: int
    repeats: int
    exact_s: float | None = None
    blended_s: float | None = None
    router_s: float | None = None
    prefill_s: float | None = None
    engine_s: float | None = None

    @property
    def computing_s(self) -> float | None:
        """What loading must beat: the engine's own prefill, or else the router's."""
        return self.engine_s if self.engine_s is not None else self.prefill_s


@dataclass(frozen=True, slots=True)
class Verification:
    """All of it.

    Attributes:
        router: what was verified.
        version: of the router; empty if it did not say.
        checks: in the order in which they were made.
        timing: what was measured.
        recommendation: what follows from it.
        ok: no check failed.
    """

    router: str
    version: str
    checks: tuple[Check, ...]
    timing: Timing | None
    recommendation: Recommendation
    ok: bool
