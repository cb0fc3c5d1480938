"""Who the cache nodes are: addresses from the configuration, and DNS names that are looked up again and again.

A name stands for all its addresses, as that of a headless Kubernetes service does. A look-up that fails or hangs
changes nothing: the addresses that were known last stay, and calls show whether they still serve.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvquilt_codec.errors import BadRequestError, KvquiltError
from kvquilt_rpc.addresses import check_address
from kvquilt_rpc.nodes.placement import Site

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Sequence[str]]
"""Gives the addresses (`host:port`) of a name; may block, and raises `OSError`."""
Changed = Callable[[Sequence[Site]], None]

_MAX_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """An entry of `router.nodes`.

    Attributes:
        text: `host:port`, or another address that gRPC takes.
        weight: of each node that it stands for.
        host: of a DNS name; empty: `text` is an address.
        port: likewise.
    """

    text: str
    weight: float
    host: str = ""
    port: int = 0


def parse_address(entry: str) -> NodeAddress:
    """An entry of `router.nodes`: ADDRESS or ADDRESS=WEIGHT.

    Raises:
        BadRequestError: it is something else.
    """
    text, equals, given = entry.strip().partition("=")
    try:
        weight = float(given) if equals else 1.0
    except ValueError:
        weight = 0.0
    if not 0 < weight <= _MAX_WEIGHT:
        raise BadRequestError(f"expected a weight above 0, at most {_MAX_WEIGHT:g}, after the node's =; got {entry!r}")
    return NodeAddress(text, weight, *check_address(text, "a node"))


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, by the system's resolver.

    Raises:
        OSError: it has none, or the resolver does not answer.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [
        f"[{where[0]}]:{port}" if family == socket.AF_INET6 else f"{where[0]}:{port}" for family, *_, where in found
    ]


class Membership:
    """The current members.

    Args:
        entries: of `router.nodes`.
        changed: told of the members when they are others than before.
        every: seconds between two look-ups of a name, and the most that one may take.
        resolver: looks names up.

    Raises:
        BadRequestError: an entry that is no address.
    """

    def __init__(self, entries: Sequence[str], changed: Changed, *, every: float, resolver: Resolve = resolve) -> None:
        self._entries = [parse_address(entry) for entry in entries]
        self._changed = changed
        self._every = every
        self._resolver = resolver
        self._known: dict[NodeAddress, Sequence[str]] = {
            entry: () if entry.host else (entry.text,) for entry in self._entries
        }
        self._running: dict[NodeAddress, asyncio.Future[Sequence[str]]] = {}
        self._told: list[Site] | None = None

    @property
    def fixed(self) -> bool:
        """Whether there is no name to look up."""
        return not any(entry.host for entry in self._entries)

    async def refresh(self) -> None:
        """Look all names up, each for at most so long, and tell of changes."""
        await asyncio.gather(*(self._look_up(entry) for entry in self._entries if entry.host))
        named: dict[str, Site] = {}
        for entry in self._entries:
            for name in self._known[entry]:
                named.setdefault(name, Site(name, entry.weight, entry.host))
        sites = [named[name] for name in sorted(named)]
        if sites != self._told:
            self._changed(sites)
            self._told = sites

    async def run(self) -> None:
        """Refresh again and again; runs until cancelled."""
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.refresh()
            except KvquiltError as error:
                log.warning("new nodes cannot be called: %s: nodes stay as they are", error)

    async def _look_up(self, entry: NodeAddress) -> None:
        # A look-up that hangs is waited for again, and no second one is begun: threads must not pile up.
        looking = self._running.get(entry) or _in_thread(self._resolver, entry.host, entry.port)
        self._running[entry] = looking
        done, _ = await asyncio.wait({looking}, timeout=self._every)
        if not done:
            log.warning("the name %s was not looked up within %g s: nodes stay as they are", entry.text, self._every)
            return
        del self._running[entry]
        if (error := looking.exception()) is not None:
            log.warning("the name %s could not be looked up: %s: nodes stay as they are", entry.text, error)
            return
        self._known[entry] = looking.result()


def _in_thread(work: Resolve, host: str, port: int) -> asyncio.Future[Sequence[str]]:
    """Run in a thread that nobody waits for at exit: a resolver may hang for minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Sequence[str]] = loop.create_future()

    def finish(result: Sequence[str], error: OSError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result: Sequence[str] = ()
        failure: OSError | None = None
        try:
            result = work(host, port)
        except OSError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  a name that no resolver takes must not end the thread unheard
            failure = OSError(str(error))
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=run, name="resolve-nodes", daemon=True).start()
    return future
