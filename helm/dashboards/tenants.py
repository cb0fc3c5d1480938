"""Who uses it, and what does each one get for it?"""

from helm.dashboards.kit import Bars, Dashboard, Lines, Query, Row, Variable
from helm.dashboards.parts import HERE, INSTALLATION, grown, rate, series, share

_CHOSEN = 'tenant=~"$tenant"'

TENANT = Variable(
    "tenant",
    "Tenant",
    "Namespace of kvquilt. Those beyond the setting metrics_namespaces share the series `other`.",
    "kvquilt_router_requests_total",
    "tenant",
    f"{{{HERE}}}",
)

USES = Row(
    "What they ask for and get",
    (
        Bars(
            "Tokens from the cache",
            "Share of a tenant's tokens that had stored KV, in the time shown.",
            "percentunit",
            (
                Query(
                    share(
                        grown("kvquilt_router_tokens_total", _CHOSEN, 'kind!="computed"', by="tenant"),
                        grown("kvquilt_router_tokens_total", _CHOSEN, by="tenant"),
                    ),
                    "{{tenant}}",
                ),
            ),
            most=1,
        ),
        Bars(
            "Prefill time saved",
            "Estimated seconds saved less those lost, in the time shown. Below 0: this tenant's prompts are better computed.",
            "s",
            (
                Query(
                    f"{grown('kvquilt_router_saved_seconds_total', _CHOSEN, by='tenant')} - {grown('kvquilt_router_lost_seconds_total', _CHOSEN, by='tenant')}",
                    "{{tenant}}",
                ),
            ),
            bad=0,
            low=True,
            signed=True,
        ),
        Lines(
            "Tokens",
            "Tokens of prompts a second.",
            "short",
            (Query(rate("kvquilt_router_tokens_total", _CHOSEN, by="tenant"), "{{tenant}}"),),
            stacked=True,
        ),
        Lines(
            "Requests",
            "Blends and loads a second.",
            "reqps",
            (Query(rate("kvquilt_router_requests_total", _CHOSEN, by="tenant"), "{{tenant}}"),),
            stacked=True,
        ),
    ),
)

HOLDS = Row(
    "What they hold and move",
    (
        Lines(
            "Stored bytes",
            "Bytes of a tenant's objects, on all nodes. Nodes that share a store each count all of it: the largest is shown.",
            "bytes",
            (Query(f"max by (tenant) ({series('kvquilt_node_namespace_bytes', _CHOSEN)})", "{{tenant}}"),),
        ),
        Bars(
            "Share of the cap",
            "Stored bytes of a tenant with a cap (node.namespaces), on its fullest node, as a share of it. At 1 it evicts its own objects; nobody else's suffer.",
            "percentunit",
            (
                Query(
                    f"max by (tenant) ({series('kvquilt_node_namespace_bytes', _CHOSEN)} / {series('kvquilt_node_namespace_cap_bytes', _CHOSEN)})",
                    "{{tenant}}",
                ),
            ),
            warn=0.9,
            bad=1,
            most=1,
        ),
        Lines(
            "Bytes fetched",
            "Bytes a second that requests of a tenant fetched from nodes.",
            "Bps",
            (Query(rate("kvquilt_router_fetched_bytes_total", _CHOSEN, by="tenant"), "{{tenant}}"),),
            stacked=True,
        ),
        Lines(
            "Bytes written",
            "Bytes a second of objects that were stored for a tenant. Much written and little found again: what it stores is not asked for.",
            "Bps",
            (Query(rate("kvquilt_router_written_bytes_total", _CHOSEN, by="tenant"), "{{tenant}}"),),
            stacked=True,
        ),
        Lines(
            "Tokens stored",
            "Tokens a second of objects that were stored.",
            "short",
            (Query(rate("kvquilt_router_written_tokens_total", _CHOSEN, by="tenant"), "{{tenant}}"),),
            stacked=True,
        ),
        Lines(
            "Objects",
            "A tenant's objects, on its fullest node.",
            "short",
            (Query(f"max by (tenant) ({series('kvquilt_node_namespace_objects', _CHOSEN)})", "{{tenant}}"),),
        ),
    ),
)

TENANTS = Dashboard(
    "kvquilt-tenants",
    "kvquilt: tenants",
    "What each tenant asks for, gets, holds and saves.",
    (USES, HOLDS),
    (INSTALLATION, TENANT),
)
