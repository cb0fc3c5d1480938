"""The one thread that computes. Requests go first; what waits for a pause gets a small share of it if none comes."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_MOST_OWED = 1.0
"""Seconds: what waits gets its share from when it waits on, not for all the time before."""


class EngineThread:
    """Runs calls one at a time in a thread of its own, so that the event loop stays free.

    Args:
        share: of the thread's time that idle calls get while requests leave no pause; below 1. With none, requests that
            are too many would for good keep out what makes later ones cheaper.
    """

    def __init__(self, share: float = 0.0) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._rate = share / (1 - share)
        self._requests = 0
        self._owed = 0.0
        self._paying = False
        self._changed = asyncio.Event()

    @property
    def requests(self) -> int:
        """Calls for requests that run or wait."""
        return self._requests

    async def run(self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Run a call for a request."""
        self._requests += 1
        try:
            return await self._run(lambda: call(*args, **kwargs), self._rate)
        finally:
            self._requests -= 1
            self._tell()

    async def run_idle(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run a call when no request wants the thread, or in its share; requests then wait for this one."""
        while self._requests and (self._owed <= 0 or self._paying):
            await self._changed.wait()
        pays = self._requests > 0
        self._paying |= pays
        try:
            return await self._run(lambda: call(*args, **kwargs), -1.0 if pays else 0.0)
        finally:
            if pays:
                self._paying = False
                self._tell()

    async def run_spare(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run a call when no request wants the thread, however long that takes."""
        while self._requests:
            await self._changed.wait()
        return await self._run(lambda: call(*args, **kwargs), 0.0)

    def close(self) -> None:
        """Let the running call end; drop those that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _run(self, call: Callable[[], Result], rate: float) -> Result:
        """Run it in the caller's context: what is logged and traced there belongs to its request.

        Each second that it takes adds `rate` seconds to what idle calls are owed.
        """
        context = contextvars.copy_context()

        def timed() -> Result:
            began = time.perf_counter()
            try:
                return context.run(call)
            finally:
                loop.call_soon_threadsafe(self._took, rate * (time.perf_counter() - began))

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, timed)

    def _took(self, owed: float) -> None:
        self._owed = min(_MOST_OWED, self._owed + owed)
        self._tell()

    def _tell(self) -> None:
        """Have those that wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()
