"""What requests take from the cache and give to it: counted for all together and for each namespace."""

from collections.abc import Collection
from dataclasses import dataclass

from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.counters import USAGE
from kvquilt_router.metrics.meter import RouterMeter
from kvquilt_router.types import BlendReport, Extent
from kvquilt_rpc import spans
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.types import OTHER
from kvquilt_rpc.metrics.values import Named

_KINDS = ("exact", "reused", "recomputed", "computed")


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts for one namespace: what is of `USAGE` for itself too, everything for all together.

    Attributes:
        overall: of all together.
        own: of the namespace, since it is remembered.
        lasting: of those that have a series of metrics together, since the start.
        meter: told of what is not counted.
    """

    overall: Counters
    own: Counters
    lasting: Counters
    meter: RouterMeter

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter.

        Raises:
            KeyError: a name that was not declared: a mistake in our own code.
        """
        self.overall.add(name, amount)
        if name in USAGE:
            self.own.add(name, amount)
            self.lasting.add(name, amount)

    def blended(self, report: BlendReport, extent: Extent = Extent.PROMPT) -> None:
        """Count what a finished blend took, and the time that it saved or lost; its span says what it took too."""
        self.meter.reported(report, extent)
        self.add("blends")
        tokens = {f"tokens_{kind}": getattr(report, f"tokens_{kind}") for kind in _KINDS}
        for name, amount in tokens.items():
            self.add(name, amount)
        for (_, tier), amount in report.tokens_stored.items():
            self.add(f"tokens_from_{tier.value}", amount)
        spans.note(**tokens, bytes=report.fetched_bytes, misses=sum(bool(o.miss_reason) for o in report.chunks))
        self.add("bytes_fetched", report.fetched_bytes)
        if report.saved_seconds is not None:
            name = "milliseconds_saved" if report.saved_seconds > 0 else "milliseconds_lost"
            self.add(name, round(abs(report.saved_seconds) * 1000))

    def written(self, tokens: int, nbytes: int) -> None:
        """Count an object that was stored."""
        self.add("tokens_written", tokens)
        self.add("bytes_written", nbytes)


class NamespaceUsage:
    """The tallies of all namespaces that a router knows; safe from any thread.

    Args:
        overall: counters of all together, `USAGE` among them.
        named: which namespaces have series of metrics of their own; by default none.
        meter: told of what is not counted.
    """

    def __init__(self, overall: Counters, named: Named | None = None, meter: RouterMeter | None = None) -> None:
        self.meter = meter or RouterMeter()
        self._overall = overall
        self.named = named or Named(0)
        self._lasting = {OTHER: Counters(USAGE)}
        self._own: dict[str, Counters] = {}

    def of(self, namespace: str) -> Tally:
        """The tally of a namespace, from 0 if it is not known."""
        lasting = self._lasting.setdefault(self.named.of(namespace), Counters(USAGE))
        return Tally(self._overall, self._own.setdefault(namespace, Counters(USAGE)), lasting, self.meter)

    def forget(self, namespace: str) -> None:
        """Let the sums of a namespace go."""
        self._own.pop(namespace, None)

    def lasting(self) -> dict[str, dict[str, int]]:
        """Sums since the start, by series of metrics: what namespaces did that are forgotten is in them."""
        return {label: counters.snapshot() for label, counters in self._lasting.items()}

    def snapshot(self, namespaces: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """The sums by namespace, in the order of their names; of these only, if any are given."""
        known = sorted(self._own.items())
        return {name: own.snapshot() for name, own in known if namespaces is None or name in namespaces}


def saved_seconds(report: BlendReport, engine_seconds: float, fresh: int) -> float | None:
    """Estimated seconds that a blend saved; negative if it lost time, `None` if no prefill was measured.

    What computing the tokens with stored KV would have taken, at the measured rate, less all that was done because of
    them: looking up, fetching, decoding, merging, choosing, recomputing, waiting and sending. Left out of that is only
    the engine's time for tokens without stored KV, which would have been computed without the cache too: their share of
    the forward pass, by their number. What the worker computes is not in it, which the prompt's last token always is.

    Args:
        report: with its tokens, `seconds` and `prefill_seconds_per_token`.
        engine_seconds: of the forward pass.
        fresh: tokens in it that have no stored KV.
    """
    if report.prefill_seconds_per_token is None:
        return None
    served = report.tokens_exact + report.tokens_reused + report.tokens_recomputed
    anyway = engine_seconds * fresh / max(fresh + report.tokens_recomputed, 1)
    return served * report.prefill_seconds_per_token - (report.seconds["total"] - anyway)


def describe(message: pb.BlendReport, report: BlendReport) -> None:
    """Write into a report what a request gave to the cache, and what it saved."""
    message.tokens_queued = report.tokens_queued
    if report.saved_seconds is not None and report.prefill_seconds_per_token is not None:
        message.saved_seconds = report.saved_seconds
        message.prefill_seconds_per_token = report.prefill_seconds_per_token
