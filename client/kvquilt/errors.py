"""The errors that kvquilt raises, all below `KvquiltError`."""

from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    DeadlineError,
    FingerprintMismatchError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
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
    "UnavailableError",
    "UnsupportedModelError",
]
