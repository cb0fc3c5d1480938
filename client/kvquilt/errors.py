"""The errors that kvquilt raises, all below `KvquiltError`."""

from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    DeadlineError,
    FingerprintMismatchError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedModelError,
)

__all__ = [
    "BadRequestError",
    "CapacityError",
    "DeadlineError",
    "FingerprintMismatchError",
    "IntegrityError",
    "KvquiltError",
    "NotFoundError",
    "PermissionDeniedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedModelError",
]
