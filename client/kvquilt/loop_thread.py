"""An event loop in a thread of its own, for synchronous callers."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
_LAST_SECONDS = 1.0
"""That what is cancelled at the end may take."""


class LoopThread:
    """Runs coroutines for other threads.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether the thread has ended."""
        return self._loop.is_closed()

    def submit(self, call: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Begin to run; cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end; what interrupts the caller cancels it."""
        future = self.submit(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, and end the thread. Does nothing the second time."""
        if self.closed:
            return
        self.submit(_cancelled()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancelled() -> None:
    """End what else runs in this loop: asyncio complains on standard error of tasks that are left."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_LAST_SECONDS)
