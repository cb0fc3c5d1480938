"""What a router measures for its metrics only."""

from time import perf_counter
from typing import Protocol

from kvquilt_codec.gate import CONTEXTS
from kvquilt_codec.tiers import Tier
from kvquilt_router.metrics import names
from kvquilt_router.types import BlendReport, Extent
from kvquilt_rpc.metrics.codec import CodecMeter
from kvquilt_rpc.metrics.measured import Histogram, Sums
from kvquilt_rpc.metrics.types import Lane
from kvquilt_rpc.metrics.values import Values

STAGES = ("wait", "fetch", "select", "compute")
EXTENTS = (Extent.PROMPT, Extent.EXACT, Extent.NOTHING)


class Paced(Protocol):
    """Something that knows how long computing a token takes."""

    @property
    def seconds_per_token(self) -> float | None:
        """In seconds; `None`: it was not measured yet."""


class RouterMeter:
    """Measures what a router does.

    Attributes:
        codec: of chunks.
        lanes: what requests share.
        paces: of the models, by name.
    """

    def __init__(self) -> None:
        extents = [(extent.value,) for extent in EXTENTS]
        self._requests = Histogram(names.REQUEST_SECONDS, extents)
        self._first = Histogram(names.FIRST_LAYER_SECONDS, [(Extent.PROMPT.value,), (Extent.EXACT.value,)])
        self._stages = Histogram(names.STAGE_SECONDS, [(stage,) for stage in STAGES])
        self._predicted = Histogram(names.PREDICTED_KL)
        self._audited = Histogram(names.AUDITED_KL)
        self._nodes = Histogram(names.NODE_SECONDS)
        self._stored = Sums(names.STORED_TOKENS, [(context, tier.value) for context in CONTEXTS for tier in Tier])
        self.codec = CodecMeter()
        self.lanes: list[Lane] = []
        self.paces: dict[str, Paced] = {}

    def reported(self, report: BlendReport, extent: Extent) -> None:
        """A request is done."""
        self._requests.observe(report.seconds.get("total", 0.0), extent.value)
        for (context, tier), tokens in report.tokens_stored.items():
            self._stored.add(tokens, context, tier.value)
        decision = report.decision
        if extent is Extent.PROMPT:
            for stage in report.seconds.keys() & STAGES:
                self._stages.observe(report.seconds[stage], stage)
            if decision.points and decision.predicted_kl is not None:
                self._predicted.observe(decision.predicted_kl, decision.policy, report.options.point.level.value)

    def waited(self, seconds: float) -> None:
        """A blend has its slot."""
        self._stages.observe(seconds, "wait")

    def began(self, came: float, extent: Extent) -> None:
        """A request that came then, by `time.perf_counter`, has its first layer."""
        self._first.observe(perf_counter() - came, extent.value)

    def audited(self, report: BlendReport, kl: float) -> None:
        """An audit found so much divergence, in nats."""
        self._audited.observe(max(0.0, kl), report.decision.policy, report.options.point.level.value)

    def answered(self, operation: str, seconds: float) -> None:
        """A node answered a call."""
        self._nodes.observe(seconds, operation)

    def collect(self, values: Values) -> None:
        """Export it."""
        values.measured(self._requests, self._first, self._stages, self._predicted, self._audited, self._nodes)
        values.measured(self._stored)
        self.codec.collect(values)
        for name, pace in self.paces.items():
            if (seconds := pace.seconds_per_token) is not None:
                values.set(names.PREFILL, seconds, name)
