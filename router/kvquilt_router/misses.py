"""Why stored KV could not be used: the reason codes of misses."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from kvquilt_codec import errors
from kvquilt_router.types import MISS_REASONS

log = logging.getLogger(__name__)

_REASONS: tuple[tuple[type[errors.KvquiltError], str], ...] = (
    (errors.NotFoundError, "not_stored"),
    (errors.UnavailableError, "node_unavailable"),
    (errors.DeadlineError, "fetch_deadline"),
    (errors.IntegrityError, "damaged"),
    (errors.FingerprintMismatchError, "fingerprint_mismatch"),
    (errors.CapacityError, "node_busy"),
    (errors.UnauthenticatedError, "node_refused"),
    (errors.PermissionDeniedError, "node_refused"),
    (errors.KvquiltError, "node_error"),
)


@contextmanager
def node_calls() -> Iterator[None]:
    """Tell a caller that the node refused the router, not the router the caller.

    Raises:
        UnavailableError: it did.
    """
    try:
        yield
    except (errors.UnauthenticatedError, errors.PermissionDeniedError) as error:
        raise errors.UnavailableError(
            f"expected the cache node to let this router in; it said: {error}: set router.node_credentials",
            reason="node_refused",
        ) from None


def miss_reason(error: errors.KvquiltError) -> str:
    """The reason code of a miss; docs/reference.md lists them."""
    if error.reason in MISS_REASONS:
        return error.reason
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))


def unanswered(error: errors.KvquiltError) -> str:
    """The reason of a miss that a look-up caused which failed."""
    log.warning("look-up failed: %s", error)
    return "lookup_deadline" if isinstance(error, errors.DeadlineError) else miss_reason(error)
