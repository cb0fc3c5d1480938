"""TCP proxies on loopback that do something after so many bytes: real faults in the middle of real streams."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Trip = Callable[[], None]
Pump = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def proxy(target: str, after_bytes: int, trip: Trip) -> AsyncIterator[str]:
    """Forward to `target`; when `after_bytes` have come back from it, call `trip` once. Yields the proxy's address.

    What comes back after that is dropped: it may have left the target before the fault, and lie in a socket's buffer.
    """
    seen = 0
    tripped = False

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen, tripped
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                seen += len(data)
                if seen >= after_bytes and not tripped:
                    tripped = True
                    trip()
                if tripped:
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()

    async with _forwarding(target, pump) as address:
        yield address


@asynccontextmanager
async def throttle(
    target: str, piece: int, pause: float, after_bytes: int | None = None, then: str = ""
) -> AsyncIterator[str]:
    """Let answers of `target` through in pieces with pauses; after so many bytes none ("hang"), or close ("close")."""
    left = after_bytes

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(piece):
                if left is not None:
                    left -= len(data)
                    if left < 0 and then == "close":
                        break
                    if left < 0:
                        continue
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()

    async with _forwarding(target, slowly) as address:
        yield address


@dataclass
class Flow:
    """How answers come through: with a pause after each piece, and not while it is not open."""

    pause: float = 0.0
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.opened.set()


@asynccontextmanager
async def adjustable(target: str, flow: Flow, piece: int = 1 << 16) -> AsyncIterator[str]:
    """Forward to `target`; what comes back flows as it is said to at that moment. Yields the proxy's address."""

    async def flowing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(piece):
                await flow.opened.wait()
                await asyncio.sleep(flow.pause)
                writer.write(data)
                await writer.drain()
        writer.close()

    async with _forwarding(target, flowing) as address:
        yield address


@asynccontextmanager
async def valve(target: str, opened: asyncio.Event) -> AsyncIterator[str]:
    """Forward to `target`; what comes back waits while the event is not set. Yields the proxy's address."""

    async def when_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await opened.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async with _forwarding(target, when_open) as address:
        yield address


@asynccontextmanager
async def resettable(target: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Forward to `target`; yields the proxy's address, and what resets all connections through it."""
    writers: list[asyncio.StreamWriter] = []

    def reset() -> None:
        for writer in writers:
            if not writer.transport.is_closing():
                own = writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        writers.clear()

    async with _forwarding(target, _pump, writers) as address:
        yield address, reset


@asynccontextmanager
async def _forwarding(
    target: str, answers: Pump, writers: list[asyncio.StreamWriter] | None = None
) -> AsyncIterator[str]:
    """Forward to `target`, what comes back by `answers`; yields the address. `writers` gets both ends' writers."""
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()
    writers = [] if writers is None else writers

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if (connecting := asyncio.current_task()) is not None:
            tasks.add(connecting)
            connecting.add_done_callback(tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        writers.append(far_writer)
        for pumping in (_pump(reader, far_writer), answers(far_reader, writer)):
            task = asyncio.create_task(pumping)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
