"""`kvquilt top`: a router as it is now, again and again."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from kvquilt.aio import AsyncClient
from kvquilt.cli.calls import client_settings
from kvquilt.cli.options import ConfigFile, Json, Set
from kvquilt.cli.output import explained, out, print_json
from kvquilt.cli.settings import ClientSettings
from kvquilt.top.drawing import line, screen
from kvquilt.top.keys import keys_read
from kvquilt.top.sampling import Sampler, Snapshot
from kvquilt_codec.errors import UnavailableError

_LONGEST_SECONDS = 5.0
"""That a question may take: then the router is said not to answer."""


def top(
    router: Annotated[str, typer.Argument(help="The router, host:port. Default: client.router.")] = "",
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
    requests: Annotated[int, typer.Option(min=0, max=64, help="How many of the slowest requests are shown.")] = 8,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show a router live: tokens by kind, time saved, nodes and their tiers, queues, the slowest of latest requests.

    q or Ctrl-C ends it. A router that goes away is waited for. Without a terminal it prints a line for each look; with
    --json a line of JSON. With --once the exit code is 5 if the router does not answer.
    """
    with explained(as_json):
        settings = client_settings(config, flags, router or None)
        asyncio.run(_shown(settings, interval, requests, once=once, as_json=as_json))


async def _shown(settings: ClientSettings, interval: float, requests: int, *, once: bool, as_json: bool) -> None:
    deadline = min(settings.deadline, _LONGEST_SECONDS)
    async with AsyncClient(settings.router, settings.credentials) as client:
        sampler = Sampler(client, deadline=deadline, shown=requests)
        if once:
            snapshot = await sampler.sample()
            if snapshot.error:
                raise UnavailableError(snapshot.error)
            _print(snapshot, as_json=as_json)
            return
        with _stopping() as stop, _drawn(stop, as_json=as_json) as live:
            while not stop.is_set():
                looking = asyncio.ensure_future(sampler.sample())
                stopped = asyncio.ensure_future(stop.wait())
                await asyncio.wait({looking, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if looking.done():
                    _show(live, looking.result(), as_json=as_json)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), interval)
                looking.cancel()
                stopped.cancel()
                await asyncio.gather(looking, stopped, return_exceptions=True)


@contextlib.contextmanager
def _stopping() -> Iterator[asyncio.Event]:
    """Is set by Ctrl-C and SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _drawn(stop: asyncio.Event, *, as_json: bool) -> Iterator[Live | None]:
    """The screen, where there is a terminal for one."""
    if as_json or not out.is_terminal:
        yield None
        return
    with (
        Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
        keys_read(lambda key: stop.set() if key in "qQ" else None),
    ):
        yield live


def _show(live: Live | None, snapshot: Snapshot, *, as_json: bool) -> None:
    if live is None:
        if as_json:
            print_json(snapshot)
        else:
            out.print(line(snapshot), markup=False)
            out.file.flush()
        return
    live.update(_screen(snapshot, live=True), refresh=True)


def _screen(snapshot: Snapshot, *, live: bool) -> RenderableType:
    return screen(snapshot, out.width, letters=not out.encoding.lower().startswith("utf"), live=live)


def _print(snapshot: Snapshot, *, as_json: bool) -> None:
    if as_json:
        print_json(snapshot)
    else:
        out.print(_screen(snapshot, live=False))
