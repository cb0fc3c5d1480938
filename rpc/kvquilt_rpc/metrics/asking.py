"""Questions that a scrape asks and that may hang: asked once at a time, waited for at most so long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kvquilt_codec.errors import KvquiltError

Result = TypeVar("Result")

ANSWER_SECONDS = 1.5
"""Of the time that a whole scrape may take."""


class Question(Generic[Result]):
    """A question that is asked again and again.

    Args:
        ask: asks it. While an answer is awaited it is not asked anew: whoever does not answer is not asked by more and
            more scrapes.
    """

    def __init__(self, ask: Callable[[], Awaitable[Result]]) -> None:
        self._ask = ask
        self._asked: asyncio.Future[Result] | None = None

    async def answer(self) -> Result | None:
        """The answer; `None`: there is none in time, or an error of our tree, or of the system."""
        if self._asked is None:
            self._asked = asyncio.ensure_future(self._ask())
        asked = self._asked
        done, _ = await asyncio.wait({asked}, timeout=ANSWER_SECONDS)
        if not done:
            return None
        self._asked = None
        try:
            return asked.result()
        except (KvquiltError, OSError):
            return None

    async def close(self) -> None:
        """Await nothing any more."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)
