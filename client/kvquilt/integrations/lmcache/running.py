"""The adapter's own thread: an event loop with open nodes, and threads that encode and decode. Needs no LMCache."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from kvquilt.integrations.lmcache.coding import Coding
from kvquilt.integrations.lmcache.settings import AdapterSettings
from kvquilt.integrations.lmcache.storing import NodeStorage
from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes import open_nodes

Result = TypeVar("Result")
_START_SECONDS = 60.0


class Running:
    """Storage that any thread may use. Nodes need not answer yet: they are called when there is something to ask.

    Args:
        settings: of the adapter.
        counters: see `storing.COUNTERS`.

    Raises:
        BadRequestError, NotFoundError: addresses, files or credentials that cannot be.
    """

    def __init__(self, settings: AdapterSettings, counters: Counters) -> None:
        coding = Coding(settings)
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="kvquilt-lmcache-codec")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kvquilt-lmcache", daemon=True)
        self._opened = AsyncExitStack()
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._thread.start()

        async def opened() -> NodeStorage:
            pool = open_nodes(settings.nodes, settings.pool, counters, credentials=settings.credentials)
            nodes = await self._opened.enter_async_context(pool)
            return NodeStorage(nodes, coding, settings, counters, self._threads)

        try:
            self._storage = asyncio.run_coroutine_threadsafe(opened(), self._loop).result(_START_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether work is taken."""
        return self._thread.is_alive() and not self._closed

    def submit(self, work: Callable[[NodeStorage], Coroutine[Any, Any, Result]]) -> "Future[Result]":
        """Begin some work; returns at once.

        Raises:
            UnavailableError: it is closed.
        """

        async def tracked() -> Result:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            return await work(self._storage)

        with self._lock:
            if not self.alive:
                raise UnavailableError("expected an open adapter; it is closed")
            return asyncio.run_coroutine_threadsafe(tracked(), self._loop)

    def close(self) -> None:
        """Cut off what runs, close the nodes; when it returns, no thread touches a caller's buffer any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True

        async def ended() -> None:
            # What was submitted a moment ago may not have begun.
            await asyncio.sleep(0)
            running = list(self._tasks)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self._opened.aclose()

        try:
            asyncio.run_coroutine_threadsafe(ended(), self._loop).result(_START_SECONDS)
        finally:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_START_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()
