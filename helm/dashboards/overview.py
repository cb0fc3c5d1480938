"""Does it help, and is it well?"""

from helm.dashboards.kit import Bars, Dashboard, Lines, Number, Query, Row
from helm.dashboards.parts import INSTALLATION, RANGE, grown, mean, quantile, rate, series, share

_ROUTER = 'job="kvquilt-router"'
_JOBS = 'job=~"kvquilt-router|kvquilt-node"'
_ON_DISK = 'tier=~"store|hot"'
_FAILED = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS"'
_TOO_MANY = 'reason!~"unauthenticated|denied"'
_FAILING = 'outcome!~"ok|not_found"'
_SERVED = 'kind!="computed"'

HELPS = Row(
    "Does it help?",
    (
        Number(
            "Tokens from the cache",
            "Share of the prompts' tokens that had stored KV, recomputed ones included, in the time shown. Small at first, and where prompts have nothing in common.",
            "percentunit",
            (
                Query(
                    share(grown("kvquilt_router_tokens_total", _SERVED), grown("kvquilt_router_tokens_total")), "share"
                ),
            ),
            most=1,
        ),
        Number(
            "Prefill time saved",
            "Estimated seconds that requests saved less those that others lost, in the time shown. Below 0 the cache costs more than it saves: KvquiltNotWorthIt.",
            "s",
            (
                Query(
                    f"{grown('kvquilt_router_saved_seconds_total')} - {grown('kvquilt_router_lost_seconds_total')}",
                    "saved",
                ),
            ),
            bad=0,
            low=True,
            signed=True,
        ),
        Number(
            "First layer, 95 % below",
            "Time from a request's arrival until its first layer went out, waiting included. The engine cannot begin before.",
            "s",
            (Query(quantile(0.95, "kvquilt_router_first_layer_seconds", over=RANGE), "p95"),),
        ),
        Number(
            "Requests",
            "Blends and loads that ended in the time shown.",
            "short",
            (Query(grown("kvquilt_router_requests_total"), "requests"),),
            decimals=0,
        ),
        Lines(
            "Tokens",
            "Tokens of prompts a second: exact (stored in this very context), reused (in another one), recomputed, and computed (no stored KV).",
            "short",
            (Query(rate("kvquilt_router_tokens_total", by="kind"), "{{kind}}"),),
            stacked=True,
        ),
        Lines(
            "Time saved and lost",
            "Estimated seconds of prefill that requests saved, and that others lost by asking the cache, each second.",
            "s",
            (
                Query(rate("kvquilt_router_saved_seconds_total"), "saved"),
                Query(rate("kvquilt_router_lost_seconds_total"), "lost"),
            ),
        ),
        Lines(
            "Time to the first layer",
            "Waiting included. Half, 95 % and 99 % of requests are below.",
            "s",
            tuple(
                Query(quantile(number, "kvquilt_router_first_layer_seconds"), f"p{number * 100:g}")
                for number in (0.5, 0.95, 0.99)
            ),
        ),
        Lines(
            "Where the time goes",
            "Mean time of a request in each stage: wait (for a slot), fetch (look up, fetch, decode), select (merge, choose what to recompute), compute. Stages overlap where the router pipelines.",
            "s",
            (Query(mean("kvquilt_router_stage_seconds", by="stage"), "{{stage}}"),),
            stacked=True,
        ),
    ),
)

WELL = Row(
    "Is it well?",
    (
        Number(
            "Servers down",
            "Routers and nodes that Prometheus does not reach now: KvquiltRouterDown, KvquiltNodeDown.",
            "short",
            (Query(f"count({series('up', _JOBS)} == 0) or vector(0)", "down"),),
            bad=1,
            decimals=0,
        ),
        Number(
            "Calls that failed",
            "Share of the calls of routers that ended in an error of the server, in the time shown: KvquiltRequestsFailing. A cache that fails makes misses, not errors.",
            "percentunit",
            (
                Query(
                    share(
                        f"({grown('kvquilt_calls_total', _ROUTER, _FAILED)} or vector(0))",
                        grown("kvquilt_calls_total", _ROUTER),
                    ),
                    "failed",
                ),
            ),
            warn=0.001,
            bad=0.05,
        ),
        Number(
            "Calls refused as too many",
            "Share of all calls, in the time shown: KvquiltRequestsShed.",
            "percentunit",
            (Query(share(grown("kvquilt_calls_refused_total", _TOO_MANY), grown("kvquilt_calls_total")), "refused"),),
            warn=0.001,
            bad=0.01,
        ),
        Number(
            "Nodes left alone",
            "Nodes that a router sends no calls to now, because they drain or do not answer: KvquiltBreakerOpen.",
            "short",
            (Query(f"count({series('kvquilt_router_node_up')} == 0) or vector(0)", "nodes"),),
            warn=1,
            decimals=0,
        ),
        Lines(
            "Hits, by context",
            "Chunks a second whose stored KV was used, by what its context was to the prompt: exact, pair (after the same neighbour), warm, base.",
            "short",
            (Query(rate("kvquilt_router_chunk_hits_total", by="context"), "{{context}}"),),
            stacked=True,
        ),
        Lines(
            "Misses, by reason",
            "Chunks a second that were not served. not_stored is what nobody stored; the others are a part that failed, or the gate. kvquilt why explains one request.",
            "short",
            (Query(rate("kvquilt_router_chunk_misses_total", by="reason") + " > 0", "{{reason}}"),),
            stacked=True,
        ),
        Lines(
            "Slots in use",
            "Share of the slots for calls, blends and loads of the fullest server. At 1 further ones wait, which is in the time to the first layer, and then are refused.",
            "percentunit",
            (
                Query(
                    f"max by (job, lane) ({series('kvquilt_slots_in_use')} / {series('kvquilt_slots_limit')})",
                    "{{job}} {{lane}}",
                ),
            ),
            warn=0.8,
            bad=1,
            most=1,
        ),
        Lines(
            "Waiting",
            "What waits: calls, blends and loads for a slot; in routers also chunks to be stored afterwards, audits, rows of the access log, calls for the engine.",
            "short",
            (
                Query(f"sum by (job, lane) ({series('kvquilt_slots_waiting')})", "{{job}} {{lane}}"),
                Query(f"sum by (queue) ({series('kvquilt_router_waiting')})", "{{queue}}"),
            ),
        ),
    ),
)

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
                    rate("kvquilt_calls_total", _FAILED, by="job, method, code") + " > 0", "{{job}} {{method}} {{code}}"
                ),
            ),
        ),
        Lines(
            "Calls refused, by reason",
            "A second, before they were looked at: unauthenticated, denied (not allowed), limited or shed (too many).",
            "short",
            (Query(rate("kvquilt_calls_refused_total", by="job, reason"), "{{job}} {{reason}}"),),
        ),
        Lines(
            "Time of routers' calls",
            "95 % of calls are below, streams to their end.",
            "s",
            (Query(quantile(0.95, "kvquilt_call_seconds", _ROUTER, by="method"), "{{method}}"),),
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
                    rate("process_cpu_seconds_total", _JOBS, by="job, instance"),
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
                    series("process_resident_memory_bytes", _JOBS),
                    "{{job}} {{instance}}",
                ),
            ),
        ),
    ),
    folded=True,
)

OVERVIEW = Dashboard(
    "kvquilt-overview",
    "kvquilt: overview",
    "Whether the cache helps, and whether it is well. Folded rows say why not.",
    (HELPS, WELL, FULL, CALLS, STORES),
    (INSTALLATION,),
)
