"""Which tier answers a read: told by the tiers that know it to whoever listens, past those in between that do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kvquilt_codec.tiers import Tier, slower


class Heard:
    """What was heard of reads.

    Attributes:
        tier: that answered; if they were several, the slowest of them.
    """

    def __init__(self) -> None:
        self.tier = Tier.UNKNOWN


_LISTENING: ContextVar[Heard | None] = ContextVar("kvquilt_listening", default=None)


@contextmanager
def listening() -> Iterator[Heard]:
    """Hear of the reads that are begun inside, in this task or in tasks that are made inside; nobody else does.

    Not around a `yield`: what is read outside would be heard of too.
    """
    heard = Heard()
    token = _LISTENING.set(heard)
    try:
        yield heard
    finally:
        _LISTENING.reset(token)


def answered(tier: Tier) -> None:
    """A tier has answered a read, whole."""
    heard = _LISTENING.get()
    if heard is not None:
        heard.tier = slower(heard.tier, tier)
