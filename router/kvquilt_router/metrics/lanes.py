"""Semaphores, seen from outside."""

import asyncio


class SemaphoreLane:
    """See `kvquilt_rpc.metrics.types.Lane`.

    Args:
        name: of the lane.
        at_once: most that hold the semaphore.

    Attributes:
        slots: the semaphore.
    """

    def __init__(self, name: str, at_once: int) -> None:
        self.name = name
        self.at_once = at_once
        self.slots = asyncio.Semaphore(at_once)

    @property
    def running(self) -> int:
        """That hold it now."""
        return self.at_once - self.slots._value

    @property
    def waiting(self) -> int:
        """That wait for it now."""
        return sum(not waiter.done() for waiter in self.slots._waiters or ())
