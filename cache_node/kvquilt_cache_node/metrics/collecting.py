"""What a node exports: what it counts anyway, how full it is, what it measured."""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from kvquilt_cache_node.eviction.quotas import DEFAULT_NAMESPACE
from kvquilt_cache_node.metrics import names
from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.tiers import capacities
from kvquilt_cache_node.types import NamespaceUsage, Store, Usage
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.asking import Question
from kvquilt_rpc.metrics.common import ServerMetrics
from kvquilt_rpc.metrics.names import METRICS as COMMON
from kvquilt_rpc.metrics.types import OTHER, Metric
from kvquilt_rpc.metrics.values import Named, Values
from kvquilt_rpc.server import RpcServer

METRICS = (*COMMON, *names.METRICS)
"""All metrics of a node."""

_SUMS: tuple[tuple[Metric, str, tuple[str, ...]], ...] = (
    (names.PUTS, "puts_stored", ("stored",)),
    (names.PUTS, "puts_present", ("present",)),
    (names.GETS, "gets", ()),
    (names.SENT_BYTES, "bytes_sent", ()),
    (names.LOOKUPS, "lookups", ()),
    (names.FILES, "profiles_stored", ("profile", "stored")),
    (names.FILES, "profiles_sent", ("profile", "sent")),
    (names.FILES, "gates_stored", ("gate", "stored")),
    (names.FILES, "gates_sent", ("gate", "sent")),
    (names.FILES, "audits_stored", ("audits", "stored")),
    (names.FILES, "audits_sent", ("audits", "sent")),
    (names.READS, "memory_hits", ("memory",)),
    (names.READS, "hot_hits", ("hot",)),
    (names.READS, "queue_hits", ("queue",)),
    (names.READ_BYTES, "memory_bytes_read", ("memory",)),
    (names.READ_BYTES, "queue_bytes_read", ("queue",)),
    (names.WRITTEN_BYTES, "memory_bytes_written", ("memory",)),
    (names.WRITTEN_BYTES, "queue_bytes_written", ("queue",)),
    (names.HOT_SKIPPED, "hot_skipped", ()),
    (names.HEDGES, "tier_hedges", ()),
    (names.HEDGES_WON, "tier_hedges_won", ()),
    (names.TIER_BYTES, "memory_bytes", ("memory",)),
    (names.TIER_BYTES, "hot_bytes", ("hot",)),
    (names.TIER_BYTES, "queue_bytes", ("queue",)),
    (names.REMOVED, "memory_evicted", ("memory", "evicted")),
    (names.REMOVED, "hot_evicted", ("hot", "evicted")),
    (names.DAMAGED, "objects_damaged", ("object",)),
    (names.DAMAGED, "profiles_damaged", ("profile",)),
    (names.DAMAGED, "gates_damaged", ("gate",)),
    (names.DAMAGED, "audits_damaged", ("audits",)),
    (names.DAMAGED, "hot_damaged", ("copy",)),
    (names.DAMAGED, "queue_damaged", ("queue",)),
    (names.QUEUE_ENTRIES, "queue_entries", ()),
    (names.QUEUE_OLDEST, "queue_oldest_at", ()),
    (names.QUEUE_FLUSHED, "queue_flushed", ()),
    (names.QUEUE_RETRIES, "queue_retries", ()),
    (names.QUEUE_FULL, "queue_full", ()),
)
"""Metrics that are counters of a node: which, and the labels."""


class NodeMetrics:
    """Exports a node's metrics.

    Args:
        settings: of the node.
        server: that it is served by.
        store: of the node; asked how full it is, once at a time.
        counters: of the node.
        meter: of the node.
    """

    def __init__(
        self, settings: NodeSettings, server: RpcServer, store: Store, counters: Counters, meter: NodeMeter
    ) -> None:
        self._settings = settings
        self._store = store
        self._counters = counters
        self._meter = meter
        certificates = {"redis_ca": settings.redis_ca, "redis_client": settings.redis_certificate}
        self._quotas = {name: quota for name, quota in settings.namespaces.items() if name != DEFAULT_NAMESPACE}
        self._named = Named(settings.metrics_namespaces, self._quotas)
        self._common = ServerMetrics("node", server, counters, certificates, self._named)
        self._usage = Question(self._used)
        self._volumes = Question(lambda: asyncio.to_thread(_volumes, settings))

    async def collect(self, values: Values) -> None:
        """Set the values of a scrape."""
        used, volumes = await asyncio.gather(self._usage.answer(), self._volumes.answer())
        self._common.collect(values)
        counts = self._counters.snapshot()
        for metric, counter, labels in _SUMS:
            values.set(metric, counts[counter], *labels)
        self._meter.collect(values)
        values.set(names.READS, self._meter.reads("store"), "store")
        self._export_limits(values)
        values.set(names.INDEX_UP, float(used is not None))
        if used is not None:
            self._export_usage(values, *used)
        for tier, (size, free) in (volumes or {}).items():
            values.set(names.VOLUME_BYTES, size, tier)
            values.set(names.VOLUME_FREE, free, tier)

    async def close(self) -> None:
        """Ask nothing any more."""
        await self._usage.close()
        await self._volumes.close()

    async def _used(self) -> tuple[Usage, Mapping[str, NamespaceUsage]]:
        return await self._store.usage(), await self._store.usage_by_namespace()

    def _export_limits(self, values: Values) -> None:
        settings = self._settings
        caps = {**dict.fromkeys(names.TIERS, 0), **capacities(settings), "store": int(settings.capacity)}
        values.each(names.TIER_CAPACITY, caps)
        values.set(names.QUEUE_LIMIT, settings.queue_entries if settings.write_mode == "back" else 0)
        values.set(names.PINNED_LIMIT, settings.rules.most_pinned(int(settings.capacity)))
        quotas = {name: quota for name, quota in self._quotas.items() if self._named.of(name) == name}
        values.each(names.NAMESPACE_FLOOR, {name: int(quota.floor) for name, quota in quotas.items()})
        caps = {name: int(quota.cap) for name, quota in quotas.items() if quota.cap is not None}
        values.each(names.NAMESPACE_CAP, caps)

    def _export_usage(self, values: Values, usage: Usage, namespaces: Mapping[str, NamespaceUsage]) -> None:
        values.set(names.TIER_BYTES, usage.used_bytes, "store")
        values.set(names.OBJECTS, usage.objects)
        values.set(names.PINNED_BYTES, usage.pinned_bytes)
        values.set(names.PENDING_DELETIONS, usage.pending_deletions)
        values.set(names.NAMESPACES, len(namespaces))
        objects: Counter[str] = Counter({OTHER: 0})
        nbytes: Counter[str] = Counter({OTHER: 0})
        for name, own in sorted(namespaces.items(), key=lambda item: -item[1].used_bytes):
            label = self._named.of(name)
            objects[label] += own.objects
            nbytes[label] += own.used_bytes
        values.each(names.NAMESPACE_OBJECTS, objects)
        values.each(names.NAMESPACE_BYTES, nbytes)


def _volumes(settings: NodeSettings) -> dict[str, tuple[int, int]]:
    """Size of the file systems that tiers lie on, and what is free there; in a thread: a disk may hang."""
    folders: dict[str, Path] = {}
    if settings.store == "file":
        folders["store"] = settings.path
    elif settings.store != "memory" and settings.index == "sqlite":
        folders["index"] = settings.path
    if settings.hot_store == "file":
        folders["hot"] = settings.hot_folder
    if settings.write_mode == "back":
        folders["queue"] = settings.queue_folder
    found = {tier: os.statvfs(folder) for tier, folder in folders.items()}
    return {tier: (state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize) for tier, state in found.items()}
