"""Whether a node drains or ends: then what waits is tried at once, and often."""

import asyncio
import contextlib


class Hurry:
    """Off at first."""

    def __init__(self) -> None:
        self._on = asyncio.Event()

    @property
    def on(self) -> bool:
        """Whether it is on."""
        return self._on.is_set()

    def begin(self) -> None:
        """Whoever waits goes on at once."""
        self._on.set()

    def end(self) -> None:
        """There is time again."""
        self._on.clear()

    async def wait(self, seconds: float, longest: float) -> None:
        """Wait; if it is on, for `longest` at most, and if it begins meanwhile no more at all."""
        if self.on:
            await asyncio.sleep(min(seconds, longest))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._on.wait(), seconds)
