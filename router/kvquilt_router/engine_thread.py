"""The one thread that computes. Requests go first: background work waits until none is waiting or running."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class EngineThread:
    """Runs calls one at a time in a thread of its own, so that the event loop stays free."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def requests(self) -> int:
        """Calls for requests that run or wait."""
        return self._requests

    async def run(self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Run a call for a request."""
        self._requests += 1
        self._idle.clear()
        try:
            return await self._run(call, *args, **kwargs)
        finally:
            self._requests -= 1
            if self._requests == 0:
                self._idle.set()

    async def run_idle(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run a call when no request wants the thread; a request that comes meanwhile waits for this one call."""
        while not self._idle.is_set():
            await self._idle.wait()
        return await self._run(call, *args, **kwargs)

    async def _run(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """In the caller's context: what is logged and traced there belongs to its request."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(call, *args, **kwargs)
        )

    def close(self) -> None:
        """Let the running call end; drop those that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)
