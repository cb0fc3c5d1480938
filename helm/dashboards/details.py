"""Why it is not well: the folded rows of the overview."""

from helm.dashboards.kit import Bars, Lines, Query, Row
from helm.dashboards.parts import FAILED, JOBS, ROUTER, mean, quantile, rate, series, share

_ON_DISK = 'tier=~"store|hot"'
_FAILING = 'outcome!~"ok|not_found"'

FULL = Row(
    "Is it full?",
    (
        Bars(
            "Tiers",
            "Bytes of each node's tiers, as a share of their caps. A full store is what a cache is for: it evicts. A full write queue is not.",
            "percentunit",
            (
                Query(
                    f"{series('kvquilt_node_tier_bytes')} / ({series('kvquilt_node_tier_capacity_bytes')} > 0)",
                    "{{tier}} of {{instance}}",
                ),
            ),
            most=1,
        ),
        Lines(
            "Objects that left, by reason",
            "A second: evicted (to make room), expired, forgotten, lost (their bytes were gone), damaged. Much eviction of what is asked for again soon: the store is too small (kvquilt simulate).",
            "short",
            (Query(rate("kvquilt_node_removed_objects_total", by="reason"), "{{reason}}"),),
            stacked=True,
        ),
        Lines(
            "Room on the disk beyond the caps",
            "What can be written to a tier's file system less what the tier may still grow. Below 0 the disk is full before the tier makes room: KvquiltStoreNearlyFull.",
            "bytes",
            (
                Query(
                    f"{series('kvquilt_node_volume_free_bytes', _ON_DISK)} - ({series('kvquilt_node_tier_capacity_bytes')} - {series('kvquilt_node_tier_bytes')})",
                    "{{tier}} of {{instance}}",
                ),
            ),
            bad=0,
            low=True,
            signed=True,
        ),
        Lines(
            "Puts refused",
            "A second, for want of room: store_full and disk_full are the medium's (KvquiltStoreNearlyFull); over_cap, over_quota and over_share are objects that are too large for the store, their namespace or what floors leave.",
            "short",
            (Query(rate("kvquilt_node_puts_refused_total", by="reason"), "{{reason}}"),),
        ),
        Bars(
            "Pinned",
            "Bytes that are pinned, as a share of what may be. At 1 pins are refused.",
            "percentunit",
            (
                Query(
                    f"{series('kvquilt_node_pinned_bytes')} / {series('kvquilt_node_pinned_limit_bytes')}",
                    "{{instance}}",
                ),
            ),
            warn=0.9,
            most=1,
        ),
        Lines(
            "To be written, to be deleted",
            "Entries of write queues, and objects that are gone and whose bytes are not deleted yet. Both come down by themselves: KvquiltWriteQueueGrowing, KvquiltDeletionsPending.",
            "short",
            (
                Query(f"sum by (instance) ({series('kvquilt_node_queue_entries')})", "queue of {{instance}}"),
                Query(f"sum by (instance) ({series('kvquilt_node_pending_deletions')})", "deletions of {{instance}}"),
            ),
        ),
    ),
    folded=True,
)

CALLS = Row(
    "Calls",
    (
        Lines(
            "Calls that failed, by method",
            "Of routers and nodes, a second, by method and status code. Errors of callers (INVALID_ARGUMENT, NOT_FOUND, CANCELLED) are left out.",
            "short",
            (
                Query(
                    rate("kvquilt_calls_total", FAILED, by="job, method, code") + " > 0", "{{job}} {{method}} {{code}}"
                ),
            ),
        ),
        Lines(
            "Calls refused, by reason",
            "A second, before they were looked at: unauthenticated, denied (not allowed), limited or shed (too many). Not made: calls that routers spare nodes that refuse most of their kind.",
            "short",
            (
                Query(rate("kvquilt_calls_refused_total", by="job, reason"), "{{job}} {{reason}}"),
                Query(rate("kvquilt_router_node_calls_spared_total", by="cache_node"), "{{cache_node}} not made"),
            ),
        ),
        Lines(
            "Certificates and tokens that are left",
            "Time until the first certificate of each file, and the token in use with the least of its lifetime left, expire: KvquiltCertificateExpiring, KvquiltTokenExpiring. Below 0 it has expired and is still shown to a server.",
            "s",
            (
                Query(
                    f"min by (job, role) ({series('kvquilt_certificate_expiry_timestamp_seconds')}) - time()",
                    "{{job}} certificate {{role}}",
                ),
                Query(
                    f"min by (job, role, tenant) ({series('kvquilt_token_expiry_timestamp_seconds')}) - time()",
                    "{{job}} token {{role}} {{tenant}}",
                ),
            ),
            bad=0,
            low=True,
            signed=True,
        ),
        Lines(
            "Time of routers' calls",
            "95 % of calls are below, streams to their end.",
            "s",
            (Query(quantile(0.95, "kvquilt_call_seconds", ROUTER, by="method"), "{{method}}"),),
        ),
        Lines(
            "Time of nodes' answers",
            "As routers see them: 95 % of nodes' answers have come, or begun to come.",
            "s",
            (Query(quantile(0.95, "kvquilt_router_node_call_seconds", by="operation"), "{{operation}}"),),
        ),
        Lines(
            "Nodes without an answer",
            "Share of a node's calls without an answer in time. After five in a row it is left alone for a while.",
            "percentunit",
            (
                Query(
                    share(
                        rate("kvquilt_router_node_failures_total", by="cache_node"),
                        rate("kvquilt_router_node_calls_total", by="cache_node"),
                    ),
                    "{{cache_node}}",
                ),
            ),
            warn=0.01,
            bad=0.5,
            most=1,
        ),
        Lines(
            "Second attempts",
            "Retries of calls that found no node or no answer, those that the budget refused, and second calls beside a late one, a second.",
            "short",
            (
                Query(rate("kvquilt_router_retries_total"), "retries"),
                Query(rate("kvquilt_router_retries_refused_total"), "retries refused"),
                Query(rate("kvquilt_router_hedges_total"), "hedges"),
                Query(rate("kvquilt_router_hedges_won_total"), "hedges won"),
            ),
        ),
    ),
    folded=True,
)

STORES = Row(
    "Stores and processes",
    (
        Lines(
            "Operations that failed",
            "Of a node's tiers and index, a second, by outcome: KvquiltStoreUnreachable, KvquiltStoreNearlyFull, KvquiltCorruptObjects.",
            "short",
            (
                Query(
                    rate("kvquilt_node_store_operations_total", _FAILING, by="instance, tier, outcome") + " > 0",
                    "{{instance}} {{tier}} {{outcome}}",
                ),
            ),
        ),
        Lines(
            "Time of operations",
            "95 % of operations of a tier's medium, or of the index, are below.",
            "s",
            (
                Query(
                    quantile(0.95, "kvquilt_node_store_operation_seconds", by="tier, operation"),
                    "{{tier}} {{operation}}",
                ),
            ),
        ),
        Lines(
            "Reads, by tier",
            "Reads a second that each tier answered. What memory and the hot tier answer the store need not.",
            "short",
            (Query(rate("kvquilt_node_reads_total", by="tier"), "{{tier}}"),),
            stacked=True,
        ),
        Lines(
            "Time of the codec",
            "Mean time to encode or decode a chunk.",
            "s",
            (Query(mean("kvquilt_codec_seconds", by="operation"), "{{operation}}"),),
        ),
        Lines(
            "Processors",
            "Processors that each process keeps busy. A node that stays at its limit is too small, or its calls are too many.",
            "short",
            (
                Query(
                    rate("process_cpu_seconds_total", JOBS, by="job, instance"),
                    "{{job}} {{instance}}",
                ),
            ),
        ),
        Lines(
            "Memory",
            "Resident bytes of each process.",
            "bytes",
            (
                Query(
                    series("process_resident_memory_bytes", JOBS),
                    "{{job}} {{instance}}",
                ),
            ),
        ),
    ),
    folded=True,
)
