"""`kvquilt serve`, `node`, `router`: run until a signal, then drain."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from threadpoolctl import threadpool_limits

from kvquilt.cli.options import ConfigFile, Json, Nodes, Set, overrides
from kvquilt.cli.output import exit_code, explained, out, print_json
from kvquilt.cli.settings import KvquiltSettings, load, secrets_of
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.allocation import keep_freed_memory
from kvquilt_rpc.exporting import exporting
from kvquilt_rpc.logs import LogSettings, adopt, hide, logging_to

log = logging.getLogger(__name__)

Running = AbstractAsyncContextManager[dict[str, str]]
Start = Callable[[KvquiltSettings, Callable[[], None]], Running]
"""Is told how to end the process as a signal does."""

Model = Annotated[str | None, typer.Option(help='Folder of a Hugging Face model, or "smollm2". Sets router.model.')]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
NodePort = Annotated[int | None, typer.Option(help="Port of the node. Sets node.port.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the file store. Sets node.path.")]
LogFormat = Annotated[
    str | None, typer.Option("--log-format", help="Of lines on standard error: text or json. Sets log.format.")
]
Capacity = Annotated[str | None, typer.Option(help='Byte cap of the store, for instance "2GiB". Sets node.capacity.')]


def serve(
    model: Model = None,
    port: Port = None,
    node_port: NodePort = None,
    data_dir: DataDir = None,
    capacity: Capacity = None,
    flags: Set = None,
    config: ConfigFile = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Run a router and a cache node in one process, on the embedded store. The way to try kvquilt.

    Prints the two addresses when both accept calls. Ends on Ctrl-C or SIGTERM, after running calls are done.
    """
    names = overrides(
        flags,
        router__model=model,
        router__port=port,
        node__port=node_port,
        node__path=data_dir,
        node__capacity=capacity,
        log__format=log_format,
    )
    _run(config, names, as_json, _serving, "kvquilt")


def node(
    port: NodePort = None,
    data_dir: DataDir = None,
    capacity: Capacity = None,
    flags: Set = None,
    config: ConfigFile = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Run a cache node: encodes, stores and serves chunks. Needs no model and no torch."""
    names = overrides(flags, node__port=port, node__path=data_dir, node__capacity=capacity, log__format=log_format)
    _run(config, names, as_json, _node, "kvquilt-node")


def router(
    model: Model = None,
    port: Port = None,
    node: Nodes = None,
    flags: Set = None,
    config: ConfigFile = None,
    log_format: LogFormat = None,
    as_json: Json = False,
) -> None:
    """Run a router: plans, fetches, blends and recomputes. Holds the model."""
    names = overrides(flags, router__model=model, router__port=port, router__nodes=node, log__format=log_format)
    _run(config, names, as_json, _router, "kvquilt-router")


def _run(config: Path | None, flags: list[str], as_json: bool, start: Start, service: str) -> None:
    # Chunks are decoded several at a time. Their small matrix products on BLAS threads of their own take many times the
    # CPU time where cores are busy: the threads wait for each other in spinning loops.
    with explained(as_json), threadpool_limits(1, user_api="blas"):
        settings = load(config, flags).settings
        for secret in secrets_of(settings):
            hide(secret)
        with logging_to(settings.log), _logged(settings.log), exporting(settings.tracing, service):
            asyncio.run(_until_signal(settings, as_json, start))


@contextlib.contextmanager
def _logged(settings: LogSettings) -> Iterator[None]:
    """What ends a server is in its log too, where that is not for people."""
    try:
        yield
    except KvquiltError as error:
        if settings.format == "text":
            raise
        log.critical("%s (%s)", error, error.reason)
        raise typer.Exit(exit_code(error)) from None


async def _until_signal(settings: KvquiltSettings, as_json: bool, start: Start) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(start(settings, stop.set)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()  # a signal while the model loads
            await asyncio.gather(opening, return_exceptions=True)
            return
        addresses = opening.result()
        if as_json:
            print_json({"event": "ready", **addresses})
        else:
            for name, address in addresses.items():
                out.print(f"[bold]{name}[/] {'is in' if name == 'store' else 'listens on'} {address}")
        await stopping
        log.info("draining")


@asynccontextmanager
async def _serving(settings: KvquiltSettings, _stop: Callable[[], None]) -> AsyncIterator[dict[str, str]]:
    from kvquilt_router.router import running_router  # imports torch

    adopt()
    if settings.node.keep_freed_memory or settings.router.keep_freed_memory:
        keep_freed_memory()
    async with (
        running_node(settings.node) as node_address,
        running_router(settings.router.model_copy(update={"nodes": (node_address,)})) as router_address,
    ):
        yield {"router": router_address, "node": node_address, "store": _where(settings.node)}


@asynccontextmanager
async def _node(settings: KvquiltSettings, stop: Callable[[], None]) -> AsyncIterator[dict[str, str]]:
    if settings.node.keep_freed_memory:
        keep_freed_memory()
    async with running_node(settings.node, stop) as address:
        yield {"node": address, "store": _where(settings.node)}


@asynccontextmanager
async def _router(settings: KvquiltSettings, _stop: Callable[[], None]) -> AsyncIterator[dict[str, str]]:
    from kvquilt_router.router import running_router  # imports torch

    adopt()
    if settings.router.keep_freed_memory:
        keep_freed_memory()
    async with running_router(settings.router) as address:
        yield {"router": address}


def _where(settings: NodeSettings) -> str:
    if settings.store == "redis" and settings.redis_url is not None:
        return f"redis at {RedisUrl.parse(settings.redis_url.get_secret_value()).where}"
    if settings.store == "object":
        return str(settings.object_url)
    return str(settings.path) if settings.store == "file" else "memory"
