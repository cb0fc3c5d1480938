"""Metrics of a cache node. What is the label `tier` has the values of `TIERS`, or `index`."""

from kvquilt_rpc.metrics.types import counter, declared, gauge, histogram

TIERS = ("memory", "hot", "queue", "store")
"""Where bytes are: in memory, in the hot tier, in the write queue, in the store itself."""

PUTS = counter("kvquilt_node_puts_total", "Puts, by outcome: stored, or present already.", "outcome")
PUTS_REFUSED = counter(
    "kvquilt_node_puts_refused_total",
    "Puts for which there was no room, by reason: over_cap, over_quota, over_share, store_full, disk_full or other.",
    "reason",
)
GETS = counter("kvquilt_node_gets_total", "Objects that were served to the end.")
SENT_BYTES = counter("kvquilt_node_sent_bytes_total", "Payload bytes of objects that were served to the end.")
LOOKUPS = counter("kvquilt_node_lookups_total", "Calls that looked up which objects exist.")
FILES = counter("kvquilt_node_files_total", "Profiles, gates and audits that were stored or sent.", "kind", "operation")

READS = counter("kvquilt_node_reads_total", "Reads of objects or parts of them, by the tier that answered.", "tier")
READ_BYTES = counter("kvquilt_node_read_bytes_total", "Bytes that came out of a tier.", "tier")
WRITTEN_BYTES = counter("kvquilt_node_written_bytes_total", "Bytes that went into a tier.", "tier")
HOT_SKIPPED = counter("kvquilt_node_hot_skipped_total", "Reads that passed the hot tier over: it failed or was late.")
HEDGES = counter("kvquilt_node_hedges_total", "Reads of the store because the hot tier was late.")
HEDGES_WON = counter("kvquilt_node_hedges_won_total", "Those among them that were answered first.")

TIER_BYTES = gauge("kvquilt_node_tier_bytes", "Bytes that are in a tier now, reservations included.", "tier")
TIER_CAPACITY = gauge("kvquilt_node_tier_capacity_bytes", "Byte cap of a tier.", "tier")
OBJECTS = gauge("kvquilt_node_objects", "Objects in the store.")
PINNED_BYTES = gauge("kvquilt_node_pinned_bytes", "Bytes of objects that are pinned.")
PINNED_LIMIT = gauge("kvquilt_node_pinned_limit_bytes", "Most bytes that may be pinned.")
PENDING_DELETIONS = gauge("kvquilt_node_pending_deletions", "Objects that are gone and whose bytes are to be deleted.")
VOLUME_BYTES = gauge(
    "kvquilt_node_volume_bytes", "Size of the file system that a tier in files, or the index, lies on.", "tier"
)
VOLUME_FREE = gauge("kvquilt_node_volume_free_bytes", "Bytes of it that this process may still write.", "tier")
NAMESPACES = gauge("kvquilt_node_namespaces", "Namespaces that have an object in the store; 4,096 at most are counted.")
NAMESPACE_BYTES = gauge("kvquilt_node_namespace_bytes", "Bytes of a namespace's objects.", "tenant")
NAMESPACE_OBJECTS = gauge("kvquilt_node_namespace_objects", "A namespace's objects.", "tenant")
NAMESPACE_CAP = gauge("kvquilt_node_namespace_cap_bytes", "Cap of a namespace, where there is one.", "tenant")
NAMESPACE_FLOOR = gauge("kvquilt_node_namespace_floor_bytes", "Floor of a namespace.", "tenant")
REMOVED = counter(
    "kvquilt_node_removed_objects_total",
    "Objects that left a tier, by reason: evicted (to make room), expired, forgotten, lost (their bytes were gone) or "
    "damaged.",
    *("tier", "reason"),
)
DAMAGED = counter(
    "kvquilt_node_damaged_total",
    "Checksums that did not hold, by what: object, profile, gate, audits, copy or queue.",
    "kind",
)

OPERATIONS = counter(
    "kvquilt_node_store_operations_total",
    "Operations of a tier's medium or of the index, by outcome: ok, not_found, refused, full, damaged, unavailable, "
    "deadline or error.",
    *("tier", "operation", "outcome"),
)
OPERATION_SECONDS = histogram(
    "kvquilt_node_store_operation_seconds",
    "Time of an operation of a tier's medium or of the index, failed ones included.",
    *("tier", "operation"),
)
INDEX_UP = gauge("kvquilt_node_index_up", "1 if the index answered this scrape, 0 if not.")

QUEUE_ENTRIES = gauge("kvquilt_node_queue_entries", "Writes and deletes in the write queue now.")
QUEUE_LIMIT = gauge("kvquilt_node_queue_limit_entries", "Most writes in the write queue.")
QUEUE_OLDEST = gauge(
    "kvquilt_node_queue_oldest_timestamp_seconds",
    "When the oldest entry of the write queue was queued, in seconds since the epoch; 0: it is empty.",
)
QUEUE_FLUSHED = counter("kvquilt_node_queue_flushed_total", "Entries of the write queue that got to the store.")
QUEUE_RETRIES = counter("kvquilt_node_queue_retries_total", "Times that one did not.")
QUEUE_FULL = counter("kvquilt_node_queue_full_total", "Puts that wrote through because the queue was full.")

MASTER_KEYS = gauge("kvquilt_node_encryption_master_keys", "Keys in node.encryption_key; 2 or more: a rotation.")
NAMESPACE_KEYS = gauge("kvquilt_node_encryption_namespace_keys", "Keys of namespaces that this node has unwrapped.")

METRICS = declared(globals())
"""All of them, beside those of every server."""
