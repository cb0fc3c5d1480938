"""What a router counts: the names of its counters; docs/reference.md says what each means."""

from kvquilt_codec.gate import CONTEXTS
from kvquilt_codec.tiers import Tier
from kvquilt_router.gate.types import REFUSALS
from kvquilt_router.types import MISS_REASONS
from kvquilt_rpc.counters import CALL_COUNTERS
from kvquilt_rpc.nodes.types import COUNTERS as NODE_COUNTERS

USAGE = (
    "blends",
    "tokens_exact",
    "tokens_reused",
    "tokens_recomputed",
    "tokens_computed",
    *(f"tokens_from_{tier.value}" for tier in Tier),
    "tokens_written",
    "bytes_fetched",
    "bytes_written",
    "milliseconds_saved",
    "milliseconds_lost",
)
"""Counters that are kept of each namespace, and of all together."""

COUNTERS = (
    *USAGE,
    *(f"loads_{what}" for what in ("exact", "nothing", "less")),
    "chunks_hit",
    *(f"chunks_hit_{context}" for context in CONTEXTS),
    *(f"chunks_missed_{reason}" for reason in MISS_REASONS),
    "documents_prefetched",
    "saves",
    "saves_dropped",
    "chunks_saved",
    "chunks_saved_before",
    "chunks_unsaved",
    "puts_failed",
    "background_stored",
    "background_dropped",
    "background_failed",
    "access_log_requests",
    "access_log_dropped",
    *(f"blends_refused_{reason}" for reason in REFUSALS),
    "audits",
    "audits_exceeded",
    "audits_dropped",
    "points_withdrawn",
    "audits_unshared",
    "audits_unstored",
    "audits_damaged",
    *CALL_COUNTERS,
    *NODE_COUNTERS,
)
"""Counters of a router."""
