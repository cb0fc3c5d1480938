"""A TCP proxy on loopback that does something after so many bytes: real faults in the middle of real streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Trip = Callable[[], None]


@asynccontextmanager
async def proxy(target: str, after_bytes: int, trip: Trip) -> AsyncIterator[str]:
    """Forward to `target`; when `after_bytes` have come back from it, call `trip` once. Yields the proxy's address.

    What comes back after that is dropped: it may have left the target before the fault, and lie in a socket's buffer.
    """
    host, _, port = target.rpartition(":")
    seen = 0
    tripped = False
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        nonlocal seen, tripped
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                seen += len(data) if counted else 0
                if counted and seen >= after_bytes and not tripped:
                    tripped = True
                    trip()
                if counted and tripped:
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        for pumping in (pump(reader, far_writer, counted=False), pump(far_reader, writer, counted=True)):
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
