"""What one identity may ask of a server: calls a second, calls at once, bytes a second. Pure computation."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvquilt_codec.errors import CapacityError

MAX_IDENTITIES = 4096
"""Identities that are remembered; beyond it the one goes that has made no call for the longest."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one identity; 0 is no limit. As many calls, or bytes, as a second allows may come at once."""

    calls_per_second: float = 0.0
    calls_at_once: int = 0
    bytes_per_second: int = 0


@dataclass(slots=True)
class _Bucket:
    """A token bucket that may be in debt."""

    level: float
    at: float

    def refilled(self, rate: float, capacity: float, now: float) -> float:
        self.level = min(capacity, self.level + (now - self.at) * rate)
        self.at = now
        return self.level


@dataclass(slots=True)
class _Account:
    calls: _Bucket
    sent: _Bucket
    running: int = 0


@dataclass(slots=True)
class Admitted:
    """A running call; `sent` is told of every message that it receives."""

    _account: _Account
    _charged: bool = field(default=True)

    def sent(self, count: int) -> None:
        """Bytes of a message that came. A call that runs is not cut: what is too much, later calls wait for."""
        if self._charged:
            self._account.sent.level -= count


class Limiter:
    """Admits calls within limits.

    Args:
        limits: of every identity.
        clock: monotonic seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    @contextmanager
    def admit(self, name: str) -> Iterator[Admitted]:
        """Let an identity make a call, which runs within the context.

        Raises:
            CapacityError: `rate_limited`, `byte_rate_limited` or `too_many_calls`; see `retry_after`.
        """
        account = self._account(name)
        limits, now = self._limits, self._clock()
        if limits.calls_at_once and account.running >= limits.calls_at_once:
            raise CapacityError(
                f"expected at most {limits.calls_at_once} calls of {name!r} at once: wait for one of them to end",
                reason="too_many_calls",
                retry_after=0.1,
            )
        if limits.bytes_per_second:
            rate = limits.bytes_per_second
            if account.sent.refilled(rate, rate, now) < 0:
                wait = -account.sent.level / rate
                raise CapacityError(
                    f"expected at most {rate} bytes a second of {name!r}: call again in {wait:.2f} s",
                    reason="byte_rate_limited",
                    retry_after=wait,
                )
        if limits.calls_per_second:
            burst = max(1.0, limits.calls_per_second)
            if account.calls.refilled(limits.calls_per_second, burst, now) < 1:
                wait = (1 - account.calls.level) / limits.calls_per_second
                raise CapacityError(
                    f"expected at most {limits.calls_per_second:g} calls a second of {name!r}: "
                    f"call again in {wait:.2f} s",
                    reason="rate_limited",
                    retry_after=wait,
                )
            account.calls.level -= 1
        account.running += 1
        try:
            yield Admitted(account, bool(limits.bytes_per_second))
        finally:
            account.running -= 1

    def _account(self, name: str) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            now = self._clock()
            calls = _Bucket(max(1.0, self._limits.calls_per_second), now)
            account = _Account(calls, _Bucket(float(self._limits.bytes_per_second), now))
            self._accounts[name] = account
        self._accounts.move_to_end(name)
        if len(self._accounts) > MAX_IDENTITIES:
            # One that has calls running keeps its account: its limit on them would be forgotten.
            idle = next((known for known, found in self._accounts.items() if not found.running), name)
            if idle != name:
                del self._accounts[idle]
        return account
