"""Metrics of every server; `component` of `kvquilt_build_info` tells which one it is."""

from kvquilt_rpc.metrics.types import counter, declared, gauge, histogram

BUILD = gauge(
    "kvquilt_build_info",
    "1, with what runs: the component, its version, the format of the objects that it writes, and its kernels.",
    *("component", "version", "format", "kernels"),
)
SERVING = gauge("kvquilt_serving", "1 while the health service says SERVING, 0 while the server drains.")
CALLS = counter(
    "kvquilt_calls_total", "Calls that have ended, by method and by status code as gRPC names it.", "method", "code"
)
CALL_SECONDS = histogram("kvquilt_call_seconds", "Time from a call's arrival to its end, streams included.", "method")
CALLS_RUNNING = gauge("kvquilt_calls_running", "Calls that run now.")
CALLS_LIMIT = gauge("kvquilt_calls_limit", "Most calls at once; further ones are refused.")
SLOTS = gauge("kvquilt_slots_in_use", "Calls, blends or loads that run now, by what they share.", "lane")
SLOTS_LIMIT = gauge("kvquilt_slots_limit", "Most of them at once.", "lane")
SLOTS_WAITING = gauge("kvquilt_slots_waiting", "Those that wait for a slot now.", "lane")
CALLS_REFUSED = counter(
    "kvquilt_calls_refused_total",
    "Calls that were refused before they were looked at, by reason: unauthenticated, denied, limited or shed.",
    "reason",
)
CERTIFICATE_EXPIRY = gauge(
    "kvquilt_certificate_expiry_timestamp_seconds",
    "When the first certificate of a configured file expires, in seconds since the epoch, by what the file is for.",
    "role",
)
TOKEN_EXPIRY = gauge(
    "kvquilt_token_expiry_timestamp_seconds",
    "When bearer tokens in use expire, in seconds since the epoch: that by which this server calls others, and of its "
    "callers' of one namespace the one with the least of its lifetime left.",
    *("role", "tenant"),
)
TOKEN_LIFETIME = gauge(
    "kvquilt_token_lifetime_seconds", "From the issue of these tokens to their end.", "role", "tenant"
)
TOKEN_KEYS = gauge("kvquilt_token_keys", "Keys that bearer tokens of callers are verified by.")
CODEC_SECONDS = histogram(
    "kvquilt_codec_seconds", "Time to encode or decode one chunk, waiting for its bytes left out.", "operation"
)
CODEC_BYTES = counter("kvquilt_codec_bytes_total", "Encoded bytes that were made or read.", "operation")

METRICS = declared(globals())
"""All of them."""

PROCESS = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
"""Metrics of the process, as clients of Prometheus have them everywhere."""

CALL_REASONS = ("unauthenticated", "denied", "limited", "shed")
"""`reason` of `CALLS_REFUSED`: the counters `calls_REASON`."""
CODEC_OPERATIONS = ("encode", "decode")
