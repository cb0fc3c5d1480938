"""The one error tree of kvquilt. Every message says what was expected, what came, and what to do."""


class KvquiltError(Exception):
    """Base of all errors that kvquilt raises on purpose.

    Attributes:
        reason: short code in snake case, stable for machines; also the reason on the wire.
        retry_after: seconds after which the same call may succeed; `None` if nothing is known.
    """

    reason = "internal"

    def __init__(self, message: str, *, reason: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        self.retry_after = retry_after


class BadRequestError(KvquiltError):
    """The caller gave something that cannot be right: a shape, a name, a range, a malformed message."""

    reason = "bad_request"


class UnauthenticatedError(KvquiltError):
    """The caller did not prove who it is: no credentials, expired ones, or ones of somebody else's making."""

    reason = "unauthenticated"


class PermissionDeniedError(KvquiltError):
    """The caller is known, and may not do this."""

    reason = "permission_denied"


class NotFoundError(KvquiltError):
    """The named thing does not exist: an object, a document, a model."""

    reason = "not_found"


class IntegrityError(KvquiltError):
    """Stored or received bytes are not what was written: truncated, altered, or of an unknown format."""

    reason = "integrity"


class FingerprintMismatchError(KvquiltError):
    """KV of another model (or of the same model set up differently) was offered or asked for."""

    reason = "fingerprint_mismatch"


class UnsupportedModelError(KvquiltError):
    """The model holds state that cannot be cached as chunks or positions that cannot be moved."""

    reason = "unsupported_model"


class CapacityError(KvquiltError):
    """A limit is reached: the store's byte cap, the disk, the number of requests at once."""

    reason = "capacity"


class UnavailableError(KvquiltError):
    """A peer or a store cannot be reached now; the same call may succeed later."""

    reason = "unavailable"


class DeadlineError(KvquiltError):
    """The time allowed for a call ran out."""

    reason = "deadline"
