"""Does it help, and is it well?"""

from helm.dashboards.details import CALLS, FULL, STORES
from helm.dashboards.kit import Dashboard, Lines, Number, Query, Row
from helm.dashboards.parts import FAILED, INSTALLATION, JOBS, RANGE, ROUTER, grown, mean, quantile, rate, series, share

_TOO_MANY = 'reason!~"unauthenticated|denied"'
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
            (Query(f"count({series('up', JOBS)} == 0) or vector(0)", "down"),),
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
                        f"({grown('kvquilt_calls_total', ROUTER, FAILED)} or vector(0))",
                        grown("kvquilt_calls_total", ROUTER),
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
            "Hits, by context and tier",
            "Tokens a second that had stored KV, by what its context was to the prompt: exact, pair (after the same neighbour), warm, base; and by where it was read: memory, hot, queue or store of a node, router (which had kept it). Much from a store that is far away: memory or the hot tier is too small for what comes back.",
            "short",
            (
                Query(
                    rate("kvquilt_router_stored_tokens_total", by="context, tier") + " > 0",
                    "{{context}} from {{tier}}",
                ),
            ),
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

OVERVIEW = Dashboard(
    "kvquilt-overview",
    "kvquilt: overview",
    "Whether the cache helps, and whether it is well. Folded rows say why not.",
    (HELPS, WELL, FULL, CALLS, STORES),
    (INSTALLATION,),
)
