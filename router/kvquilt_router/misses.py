"""Why stored KV could not be used: the reason codes of misses."""

from kvquilt_codec import errors
from kvquilt_router.types import MISS_REASONS

_REASONS: tuple[tuple[type[errors.KvquiltError], str], ...] = (
    (errors.NotFoundError, "not_stored"),
    (errors.UnavailableError, "node_unavailable"),
    (errors.DeadlineError, "fetch_deadline"),
    (errors.IntegrityError, "damaged"),
    (errors.FingerprintMismatchError, "fingerprint_mismatch"),
    (errors.CapacityError, "node_busy"),
    (errors.KvquiltError, "node_error"),
)


def miss_reason(error: errors.KvquiltError) -> str:
    """The reason code of a miss; docs/reference.md lists them."""
    if error.reason in MISS_REASONS:
        return error.reason
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))
