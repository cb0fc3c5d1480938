"""Metrics of a router."""

from kvquilt_rpc.metrics.types import counter, declared, gauge, histogram

KL_NATS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Buckets of divergences."""

REQUESTS = counter("kvquilt_router_requests_total", "Requests that have finished, by namespace.", "tenant")
SENT = counter(
    "kvquilt_router_sent_total",
    "The same by what was sent: prompt (everything, blended), exact (an exact head), or nothing.",
    "extent",
)
SENT_LESS = counter("kvquilt_router_sent_less_total", "Exact heads that became shorter than they were looked up.")
HITS = counter(
    "kvquilt_router_chunk_hits_total",
    "Chunks of requests whose stored KV was used, by what its context is to the prompt: exact, pair, warm or base.",
    "context",
)
MISSES = counter(
    "kvquilt_router_chunk_misses_total", "Chunks of requests whose stored KV was not used, by reason.", "reason"
)
TOKENS = counter(
    "kvquilt_router_tokens_total",
    "Tokens of requests: exact, reused, recomputed or computed; together all tokens of their prompts.",
    *("kind", "tenant"),
)
STORED_TOKENS = counter(
    "kvquilt_router_stored_tokens_total",
    "Tokens of requests with stored KV, recomputed ones included, by what its context is to the prompt, and by where "
    "it was read: memory, hot, queue or store of a node, router (which had kept it) or unknown.",
    *("context", "tier"),
)
FETCHED_BYTES = counter("kvquilt_router_fetched_bytes_total", "Bytes that requests fetched from nodes.", "tenant")
WRITTEN_TOKENS = counter("kvquilt_router_written_tokens_total", "Tokens of objects that were stored.", "tenant")
WRITTEN_BYTES = counter("kvquilt_router_written_bytes_total", "Bytes of objects that were stored.", "tenant")
SAVED_SECONDS = counter(
    "kvquilt_router_saved_seconds_total", "Estimated prefill time that requests saved, where they did.", "tenant"
)
LOST_SECONDS = counter(
    "kvquilt_router_lost_seconds_total",
    "Estimated time that the cache cost requests, where it did.",
    "tenant",
)

REQUEST_SECONDS = histogram(
    "kvquilt_router_request_seconds", "Time of a request from look-up to the last layer, waiting left out.", "extent"
)
FIRST_LAYER_SECONDS = histogram(
    "kvquilt_router_first_layer_seconds",
    "Time from a request to its first layer, waiting included.",
    "extent",
)
STAGE_SECONDS = histogram(
    "kvquilt_router_stage_seconds",
    "Time of a stage of a blend: wait (for a slot), fetch (look up, fetch, decode), select (merge, choose) or compute.",
    "stage",
)
PREFILL = gauge(
    "kvquilt_router_prefill_seconds_per_token", "What computing a token takes here, as measured lately.", "model"
)

PREDICTED_KL = histogram(
    "kvquilt_router_predicted_kl_nats",
    "Divergence that the gate predicted requests that used chunks in another context to stay below.",
    *("policy", "level"),
    buckets=KL_NATS,
)
AUDITED_KL = histogram(
    "kvquilt_router_audited_kl_nats",
    "Divergence that audits measured, of requests as they were served.",
    *("policy", "level"),
    buckets=KL_NATS,
)
KL_LIMIT = gauge("kvquilt_router_kl_limit_nats", "Most divergence that the gate may predict, by default.")
AUDITS = counter("kvquilt_router_audits_total", "Audits, by outcome: within the prediction, or exceeded.", "outcome")
AUDITS_DROPPED = counter("kvquilt_router_audits_dropped_total", "Requests that were to be audited, and could not wait.")
POINTS_WITHDRAWN = counter(
    "kvquilt_router_points_withdrawn_total",
    "Operating points that audits disproved, as this router found; not those that it heard of from others.",
)
AUDITS_UNSHARED = counter(
    "kvquilt_router_audits_unshared_total",
    "What kept audits from being shared: exchanges that no node answered, nodes that did not store what they were "
    "told, and records that nodes found damaged or lost.",
    "reason",
)
GATE_REFUSALS = counter(
    "kvquilt_router_gate_refusals_total",
    "Requests with chunks that the gate kept out, by reason.",
    "reason",
)
GATE = gauge(
    "kvquilt_router_gate",
    "1 for the state of a model's gate: open (some point is used), closed (there is none, or no node "
    "has told what was withdrawn), withdrawn (audits disproved "
    "all points) or ungated (nothing is asked of it).",
    *("model", "state"),
)
GATE_POINTS = gauge(
    "kvquilt_router_gate_points", "Operating points of the gate: in force, or withdrawn.", "model", "state"
)

MODEL = gauge(
    "kvquilt_router_model_info",
    "1, with a model that is served: its name, the beginning of its fingerprint, its architecture, and of its profile.",
    *("model", "fingerprint", "architecture", "profile"),
)
NAMESPACES = gauge("kvquilt_router_namespaces", "Namespaces that are remembered.")
NAMESPACES_LIMIT = gauge("kvquilt_router_namespaces_limit", "Most namespaces that are remembered.")

WAITING = gauge(
    "kvquilt_router_waiting",
    "What waits now: chunks to be stored in the background, audits, rows of the access log, and requests that want the "
    "engine (the one that has it included).",
    "queue",
)
WAITING_LIMIT = gauge("kvquilt_router_waiting_limit", "Most that may wait, where there is a limit.", "queue")
MEMORY_BYTES = gauge("kvquilt_router_memory_bytes", "Memory of: KV that workers save, encoded chunks.", "use")
MEMORY_LIMIT = gauge("kvquilt_router_memory_limit_bytes", "Most of it.", "use")

PREFETCHED = counter("kvquilt_router_prefetched_documents_total", "Documents that a prefetch dealt with.")
PUTS_FAILED = counter("kvquilt_router_puts_failed_total", "Chunks that were refused for capacity or a deadline.")
BACKGROUND = counter(
    "kvquilt_router_background_chunks_total", "Chunks after requests: stored, dropped (no room) or failed.", "outcome"
)
SAVES = counter("kvquilt_router_saves_total", "Calls of StoreKv: taken, or dropped (no room).", "outcome")
SAVED_CHUNKS = counter(
    "kvquilt_router_saved_chunks_total", "Chunks of them: stored, present before, or failed.", "outcome"
)
ACCESS_LOG = counter(
    "kvquilt_router_access_log_requests_total", "Requests that were written to the access log, or dropped.", "outcome"
)

NODES = gauge("kvquilt_router_nodes", "Cache nodes that the router knows.")
NODE_UP = gauge("kvquilt_router_node_up", "1 if requests go to a node: it serves, its breaker is closed.", "cache_node")
NODE_BREAKER = gauge("kvquilt_router_node_breaker", "1 for the state of a node's breaker.", "cache_node", "state")
NODE_RUNNING = gauge("kvquilt_router_node_calls_running", "Calls of a node that run now.", "cache_node")
NODE_CALLS = counter("kvquilt_router_node_calls_total", "Calls of a node, health probes included.", "cache_node")
NODE_FAILURES = counter("kvquilt_router_node_failures_total", "Calls of a node without an answer.", "cache_node")
NODE_SPARED = counter(
    "kvquilt_router_node_calls_spared_total",
    "Calls of a node that were not made because it refuses most of their kind.",
    "cache_node",
)
NODE_SECONDS = histogram(
    "kvquilt_router_node_call_seconds", "Time until a node answered, or began to, by operation.", "operation"
)
NODES_CHANGED = counter("kvquilt_router_nodes_changed_total", "Changes of the list of nodes since the start.")
RETRIES = counter("kvquilt_router_retries_total", "Further attempts of calls of nodes that found none.")
RETRIES_REFUSED = counter("kvquilt_router_retries_refused_total", "Those that the budget did not allow.")
HEDGES = counter("kvquilt_router_hedges_total", "Second calls beside a late one.")
HEDGES_WON = counter("kvquilt_router_hedges_won_total", "Those that were answered first.")
BREAKERS_OPENED = counter("kvquilt_router_breakers_opened_total", "Times that a node was left alone.")
SPREAD_READS = counter("kvquilt_router_spread_reads_total", "Reads of hot chunks, which go to several nodes.")

METRICS = declared(globals())
"""All of them, beside those of every server."""
