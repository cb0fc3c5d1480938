"""How often calls may be made again: a token bucket, and waits with full jitter. No I/O."""

from collections.abc import Callable


class RetryBudget:
    """Tokens for further attempts: requests earn a share of one each, an attempt costs one.

    Of n requests at most `reserve + ratio * n` are tried again, whatever fails: a fault of many nodes does not multiply
    the load of those that are left. As in gRPC's retry throttling (gRFC A6) and Finagle's `RetryBudget`.

    Args:
        ratio: tokens that a request earns.
        reserve: tokens at first, and the most that are kept.
    """

    def __init__(self, ratio: float, reserve: float) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._tokens = reserve

    def deposit(self) -> None:
        """A request was made for the first time."""
        self._tokens = min(self._reserve, self._tokens + self._ratio)

    def take(self) -> bool:
        """Whether one more attempt may be made; if so, it is paid for."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def full_jitter(attempt: int, base: float, cap: float, chance: Callable[[], float]) -> float:
    """Seconds to wait before an attempt: uniform up to a bound that doubles.

    Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.

    Args:
        attempt: 0 for the first one after a failure.
        base: bound of the first wait.
        cap: most seconds.
        chance: uniform numbers in 0..1.
    """
    return chance() * min(cap, base * 2.0**attempt)
