"""Are blended answers as close to full prefills as the gate promises?"""

from helm.dashboards.kit import Bars, Dashboard, Lines, Number, Query, Row
from helm.dashboards.parts import INSTALLATION, RANGE, grown, quantile, rate, series, share

_POINTS = "kvquilt_router_gate_points"
_WITHDRAWN, _IN_FORCE = 'state="withdrawn"', 'state!="withdrawn"'
_OF_ALL = "max by (model) ({})"
"""Routers of a model share what they withdraw."""
_BLENDED = 'kind=~"reused|recomputed"'

PROMISED = Row(
    "Is it right?",
    (
        Number(
            "Points withdrawn",
            "Operating points of gates that audits disproved, and that are used no more: KvquiltDivergenceAboveGate.",
            "short",
            (Query(f"sum({_OF_ALL.format(series(_POINTS, _WITHDRAWN))})", "withdrawn"),),
            bad=1,
            decimals=0,
        ),
        Number(
            "Points in force",
            "Operating points that prompts may be blended at. 0: nothing is blended, stored KV is used in its exact context only.",
            "short",
            (Query(f"sum({_OF_ALL.format(series(_POINTS, _IN_FORCE))})", "in force"),),
            warn=1,
            low=True,
            decimals=0,
        ),
        Number(
            "Audits beyond the prediction",
            "Share of the audits of the time shown that found more divergence than was predicted. The gate promises a small share, 5 % by default.",
            "percentunit",
            (
                Query(
                    share(
                        grown("kvquilt_router_audits_total", 'outcome="exceeded"'), grown("kvquilt_router_audits_total")
                    ),
                    "exceeded",
                ),
            ),
            warn=0.05,
            bad=0.2,
        ),
        Number(
            "Audits",
            "Blends of the time shown that were compared with a full prefill (router.audit_share). Without audits nothing is known.",
            "short",
            (Query(grown("kvquilt_router_audits_total"), "audits"),),
            decimals=0,
        ),
        Lines(
            "Divergence, predicted and audited",
            "KL(full || blended) in nats: what the gate predicted requests to stay below, what audits measured (95 % are below), and the most that may be predicted.",
            "short",
            (
                Query(quantile(0.95, "kvquilt_router_predicted_kl_nats", over="[1h]"), "predicted"),
                Query(quantile(0.95, "kvquilt_router_audited_kl_nats", over="[1h]"), "audited"),
                Query(f"max({series('kvquilt_router_kl_limit_nats')})", "limit"),
            ),
        ),
        Lines(
            "Audits, by outcome",
            "A second: within what was predicted, or exceeded.",
            "short",
            (Query(rate("kvquilt_router_audits_total", by="outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Lines(
            "What the gate kept out",
            "Requests a second whose chunks in another context were computed instead: no gate, a point that was not measured, a prediction above the limit, or withdrawn points.",
            "short",
            (Query(rate("kvquilt_router_gate_refusals_total", by="reason"), "{{reason}}"),),
            stacked=True,
        ),
        Lines(
            "State of gates",
            "Routers with a gate that is open (some point is used), closed (there is none), withdrawn (audits disproved all points) or ungated (nothing is asked of it; never in production).",
            "short",
            (Query(f"sum by (state) ({series('kvquilt_router_gate')})", "{{state}}"),),
            stacked=True,
        ),
    ),
)

POLICIES = Row(
    "Policies and levels",
    (
        Lines(
            "Requests, by policy",
            "Requests a second that used chunks in another context on the gate's word, by recompute policy.",
            "short",
            (Query(rate("kvquilt_router_predicted_kl_nats_count", by="policy"), "{{policy}}"),),
            stacked=True,
        ),
        Lines(
            "Requests, by codec level",
            "The same by the level that their chunks were decoded at.",
            "short",
            (Query(rate("kvquilt_router_predicted_kl_nats_count", by="level"), "{{level}}"),),
            stacked=True,
        ),
        Bars(
            "Audited divergence, by policy and level",
            "KL in nats that 95 % of the audits of the time shown stayed below. Which policy is worth its time: kvquilt eval.",
            "short",
            (
                Query(
                    quantile(0.95, "kvquilt_router_audited_kl_nats", by="policy, level", over=RANGE),
                    "{{policy}}, {{level}}",
                ),
            ),
        ),
        Lines(
            "Recomputed tokens",
            "Share of the tokens with stored KV of another context that were computed anew. More is closer to a full prefill, and slower.",
            "percentunit",
            (
                Query(
                    share(
                        rate("kvquilt_router_tokens_total", 'kind="recomputed"'),
                        rate("kvquilt_router_tokens_total", _BLENDED),
                    ),
                    "recomputed",
                ),
            ),
            most=1,
        ),
        Lines(
            "Points, by model",
            "Operating points by model and state, on the router that has most of each. Withdrawn ones stay so until an operator lifts them or a new gate is measured.",
            "short",
            (Query(f"max by (model, state) ({series(_POINTS)})", "{{model}}: {{state}}"),),
        ),
        Lines(
            "Checksums that did not hold",
            "A second, by what they are of. None of it is served; a disk that changes bytes should be replaced: KvquiltCorruptObjects.",
            "short",
            (Query(rate("kvquilt_node_damaged_total", by="kind"), "{{kind}}"),),
        ),
        Lines(
            "Audits that did not happen",
            "Blends a second that were to be audited while others waited for it.",
            "short",
            (Query(rate("kvquilt_router_audits_dropped_total"), "dropped"),),
        ),
    ),
    folded=True,
)

QUALITY = Dashboard(
    "kvquilt-quality",
    "kvquilt: quality",
    "Divergence that was predicted and that audits found, the gate's state, and what follows from it.",
    (PROMISED, POLICIES),
    (INSTALLATION,),
)
