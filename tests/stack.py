"""Real servers for tests: a router and a node in a thread of this process, or a node in a process of its own."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from kvquilt import Client
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_router.engine import LoadedModel
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings

Result = TypeVar("Result")

_PLAIN = {"profile": "", "ungated": True}
"""Without a codec profile there is no gate; what tests of the mechanism are about is not the gate."""


@contextmanager
def in_thread(opened: Callable[[], AbstractAsyncContextManager[Result]]) -> Iterator[Result]:
    """Enter an asynchronous context in an event loop of a thread of its own; leave it there at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = opened()
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(120)
    finally:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@contextmanager
def router_only(model: LoadedModel, nodes: str | Sequence[str], **settings: object) -> Iterator[str]:
    """A router in this process that uses nodes elsewhere, by default without profile and gate; yields its address."""
    chosen = RouterSettings(port=0, nodes=nodes, drain_seconds=5, **{**_PLAIN, **settings})
    with in_thread(lambda: running_router(chosen, model)) as address:
        yield address


@contextmanager
def serve(
    model: LoadedModel, data_dir: Path, *, capacity: int = 1 << 30, sweep_seconds: float = 5.0, **settings: object
) -> Iterator[str]:
    """Router and node in this process, by default without profile and gate; yields the router's address."""

    @asynccontextmanager
    async def both() -> AsyncIterator[str]:
        limits = {"capacity": capacity, "sweep_seconds": sweep_seconds}
        node = NodeSettings(port=0, path=data_dir, fsync=False, drain_seconds=5, **limits)
        async with running_node(node) as address:
            router = RouterSettings(port=0, nodes=address, drain_seconds=5, **{**_PLAIN, **settings})
            async with running_router(router, model) as router_address:
                yield router_address

    with in_thread(both) as address:
        if settings.get("gate") and "security" not in settings:
            with Client(address) as client:
                eventually(lambda: not unheard(client))
        yield address


@contextmanager
def node_process(data_dir: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`kvquilt node` in a process of its own; yields the process and its address. Killed at the end."""
    command = [sys.executable, "-m", "kvquilt", "node", "--json", "--port", "0", "--data-dir", str(data_dir), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["node"]
    finally:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def blobs(data_dir: Path) -> list[Path]:
    """The containers of a file store."""
    return sorted((data_dir / "blobs").glob("??/*.kvq"))


def unheard(client: Client) -> bool:
    """Whether a router has not been told yet what was withdrawn: on a busy machine it starts before it is."""
    return any("no node has told" in model.gate.missing_reason for model in client.status().models)


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what happens in the background; the test's own timeout is the limit."""
    while not condition():
        time.sleep(0.02)
