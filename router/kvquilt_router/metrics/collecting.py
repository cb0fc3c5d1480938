"""What a router exports: what it counts anyway, what waits, how its nodes are, what it measured."""

from kvquilt_codec.gate import CONTEXTS
from kvquilt_router.access_log import MAX_WAITING, AccessLog
from kvquilt_router.auditing import WAITING
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.gate.types import REFUSALS
from kvquilt_router.metrics import names
from kvquilt_router.metrics.meter import RouterMeter
from kvquilt_router.served import ServedModel
from kvquilt_router.settings import RouterSettings
from kvquilt_router.types import MISS_REASONS
from kvquilt_router.usage import NamespaceUsage
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.common import ServerMetrics, export_token
from kvquilt_rpc.metrics.names import METRICS as COMMON
from kvquilt_rpc.metrics.types import Metric
from kvquilt_rpc.metrics.values import Values
from kvquilt_rpc.nodes import CacheNodes
from kvquilt_rpc.nodes.breaker import BreakerState
from kvquilt_rpc.server import RpcServer

METRICS = (*COMMON, *names.METRICS)
"""All metrics of a router."""

FINGERPRINT_CHARACTERS = 16
"""Of a fingerprint or a digest, in labels."""

GATES = ("open", "closed", "withdrawn", "ungated")
_TOKENS = ("exact", "reused", "recomputed", "computed")

_SUMS: tuple[tuple[Metric, str, tuple[str, ...]], ...] = (
    (names.SENT, "loads_exact", ("exact",)),
    (names.SENT, "loads_nothing", ("nothing",)),
    (names.SENT_LESS, "loads_less", ()),
    *((names.HITS, f"chunks_hit_{context}", (context,)) for context in CONTEXTS),
    *((names.MISSES, f"chunks_missed_{reason}", (reason,)) for reason in MISS_REASONS),
    *((names.GATE_REFUSALS, f"blends_refused_{reason}", (reason,)) for reason in REFUSALS),
    (names.AUDITS, "audits_exceeded", ("exceeded",)),
    (names.AUDITS_DROPPED, "audits_dropped", ()),
    (names.POINTS_WITHDRAWN, "points_withdrawn", ()),
    (names.AUDITS_UNSHARED, "audits_unshared", ("unanswered",)),
    (names.AUDITS_UNSHARED, "audits_unstored", ("unstored",)),
    (names.AUDITS_UNSHARED, "audits_damaged", ("damaged",)),
    (names.PREFETCHED, "documents_prefetched", ()),
    (names.PUTS_FAILED, "puts_failed", ()),
    (names.BACKGROUND, "background_stored", ("stored",)),
    (names.BACKGROUND, "background_dropped", ("dropped",)),
    (names.BACKGROUND, "background_failed", ("failed",)),
    (names.SAVES, "saves", ("taken",)),
    (names.SAVES, "saves_dropped", ("dropped",)),
    (names.SAVED_CHUNKS, "chunks_saved", ("stored",)),
    (names.SAVED_CHUNKS, "chunks_saved_before", ("present",)),
    (names.SAVED_CHUNKS, "chunks_unsaved", ("failed",)),
    (names.ACCESS_LOG, "access_log_requests", ("written",)),
    (names.ACCESS_LOG, "access_log_dropped", ("dropped",)),
    (names.NODES_CHANGED, "nodes_changed", ()),
    (names.RETRIES, "node_retries", ()),
    (names.RETRIES_REFUSED, "node_retries_refused", ()),
    (names.HEDGES, "node_hedges", ()),
    (names.HEDGES_WON, "node_hedges_won", ()),
    (names.BREAKERS_OPENED, "node_breakers_opened", ()),
    (names.SPREAD_READS, "node_spread_reads", ()),
)
"""Metrics that are counters of a router: which, and the labels."""

_USED: tuple[tuple[Metric, str, float], ...] = (
    (names.REQUESTS, "blends", 1),
    (names.FETCHED_BYTES, "bytes_fetched", 1),
    (names.WRITTEN_TOKENS, "tokens_written", 1),
    (names.WRITTEN_BYTES, "bytes_written", 1),
    (names.SAVED_SECONDS, "milliseconds_saved", 1e-3),
    (names.LOST_SECONDS, "milliseconds_lost", 1e-3),
)
"""Metrics that are sums of namespaces, and by what these are multiplied."""


class RouterMetrics:
    """Exports a router's metrics.

    Args:
        settings: of the router.
        server: that it is served by.
        served: the model.
        nodes: that it calls.
        counters: of the router.
        meter: of the router.
        thread: that computes.
        access_log: if there is one.
    """

    def __init__(
        self,
        settings: RouterSettings,
        server: RpcServer,
        served: ServedModel,
        nodes: CacheNodes,
        counters: Counters,
        meter: RouterMeter,
        thread: EngineThread,
        access_log: AccessLog | None,
    ) -> None:
        self._settings = settings
        self._served = served
        self._nodes = nodes
        self._counters = counters
        self._meter = meter
        self._thread = thread
        self._access_log = access_log
        credentials = settings.node_credentials
        certificates = {"node_ca": credentials.tls_ca, "node_client": credentials.tls_cert}
        self._common = ServerMetrics("router", server, counters, certificates, served.usage.named, meter.lanes)

    async def collect(self, values: Values) -> None:
        """Set the values of a scrape. Nothing is asked of anybody: all is at hand."""
        self._common.collect(values)
        export_token(values, self._settings.node_credentials, "nodes")
        counts = self._counters.snapshot()
        for metric, counter, labels in _SUMS:
            values.set(metric, counts[counter], *labels)
        values.set(names.SENT, counts["blends"] - counts["loads_exact"] - counts["loads_nothing"], "prompt")
        values.set(names.AUDITS, counts["audits"] - counts["audits_exceeded"], "within")
        _export_usage(values, self._served.usage)
        self._export_waiting(values)
        self._export_model(values)
        self._export_nodes(values)
        self._meter.collect(values)

    def _export_waiting(self, values: Values) -> None:
        served, settings = self._served, self._settings
        waiting = {
            "background": len(served.background.waiting()),
            "audits": served.auditor.waiting,
            "access_log": 0 if self._access_log is None else self._access_log.waiting,
            "engine": self._thread.requests,
        }
        values.each(names.WAITING, waiting)
        limits = {"background": settings.background_queue, "audits": WAITING, "access_log": MAX_WAITING}
        values.each(names.WAITING_LIMIT, limits)
        values.each(names.MEMORY_BYTES, {"saves": served.taker.held_bytes, "held_chunks": served.held.nbytes})
        limits = {"saves": int(settings.save_bytes), "held_chunks": int(settings.held_bytes)}
        values.each(names.MEMORY_LIMIT, limits)
        values.set(names.NAMESPACES, len(served.tenants))
        values.set(names.NAMESPACES_LIMIT, settings.max_namespaces)

    def _export_model(self, values: Values) -> None:
        loaded, gate = self._served.loaded, self._served.gate
        short = slice(FINGERPRINT_CHARACTERS)
        profile = self._served.profile.digest[short]
        values.set(names.MODEL, 1, loaded.name, loaded.fingerprint[short], loaded.architecture, profile)
        points = () if gate.gate is None else gate.gate.points
        withdrawn = len(gate.withdrawn)
        state = "closed" if gate.closed_reason else "open" if withdrawn < len(points) else "withdrawn"
        values.chosen(names.GATE, GATES, "ungated" if gate.ungated else state, loaded.name)
        values.set(names.GATE_POINTS, len(points) - withdrawn, loaded.name, "in_force")
        values.set(names.GATE_POINTS, withdrawn, loaded.name, "withdrawn")
        values.set(names.KL_LIMIT, self._settings.max_kl)

    def _export_nodes(self, values: Values) -> None:
        members = self._nodes.known()
        values.set(names.NODES, len(members))
        for member in members:
            up = member.serving and member.breaker == BreakerState.CLOSED.value
            values.set(names.NODE_UP, float(up), member.target)
            values.chosen(names.NODE_BREAKER, [state.value for state in BreakerState], member.breaker, member.target)
            values.set(names.NODE_RUNNING, member.outstanding, member.target)
            values.set(names.NODE_CALLS, member.calls, member.target)
            values.set(names.NODE_FAILURES, member.failures, member.target)
            values.set(names.NODE_SPARED, member.spared, member.target)


def _export_usage(values: Values, usage: NamespaceUsage) -> None:
    for label, counts in usage.lasting().items():
        for kind in _TOKENS:
            values.set(names.TOKENS, counts[f"tokens_{kind}"], kind, label)
        for metric, counter, unit in _USED:
            values.set(metric, counts[counter] * unit, label)
