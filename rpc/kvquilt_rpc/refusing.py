"""Counts and logs who is not let in."""

import logging
import time

from kvquilt_codec import errors
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)

_COUNTED: tuple[tuple[type[errors.KvquiltError], str], ...] = (
    (errors.UnauthenticatedError, "calls_unauthenticated"),
    (errors.PermissionDeniedError, "calls_denied"),
    (errors.CapacityError, "calls_limited"),
)
_LOG_SECONDS = 1.0
"""Refusals are logged at most once in so long: whoever cannot get in shall not fill the disk."""


class Refusing:
    """Of one server.

    Args:
        counters: `CALL_COUNTERS` among them.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._logged = 0.0
        self._unlogged = 0

    def refused(self, what: str, peer: str, error: Exception) -> None:
        """Somebody was refused what it asked for."""
        counter = next((name for kind, name in _COUNTED if isinstance(error, kind)), None)
        if counter is not None and getattr(error, "reason", "") != OVERLOADED:  # counted where it was refused
            self._counters.add(counter)
        now = time.monotonic()
        if now - self._logged < _LOG_SECONDS:
            self._unlogged += 1
            return
        others = f"; {self._unlogged} others since the last line" if self._unlogged else ""
        log.warning("refused %s of %s: %s (%s)%s", what, peer, error, getattr(error, "reason", "malformed"), others)
        self._logged, self._unlogged = now, 0
