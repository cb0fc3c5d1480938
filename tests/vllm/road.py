"""The way from an engine to its router: a TCP proxy that can be led elsewhere, cut and slowed down while it is used."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Road:
    """Attributes are read for each connection and each piece of an answer; `cut` ends the connections that there are.

    Attributes:
        target: where it leads; empty: nowhere, connections are closed at once.
        pause: seconds before each piece of an answer.
        bytes_left: of answers, after which connections are closed; `None`: as many as come.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.pause = 0.0
        self.bytes_left: int | None = None
        self.address = ""
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def cut(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._cut)

    def lead(self, target: str) -> None:
        """Lead to another router from now on, at full speed."""
        self.target, self.pause, self.bytes_left = target, 0.0, None
        self.cut()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except (OSError, ValueError):
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._forward(reader, far_writer), self._answer(far_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.pause)
                if self.bytes_left is not None:
                    self.bytes_left -= len(data)
                    if self.bytes_left < 0:
                        self.target = ""
                        self._cut()
                        return
                writer.write(data)
                await writer.drain()
        writer.close()

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await server.serve_forever()

        with contextlib.suppress(asyncio.CancelledError, RuntimeError):
            self._loop.run_until_complete(serve())

    def _stop(self) -> None:
        self._cut()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()


@contextmanager
def road(target: str) -> Iterator[Road]:
    """A road to a router."""
    made = Road(target)
    ready = threading.Event()
    thread = threading.Thread(target=made._run, args=(ready,), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield made
    finally:
        made._loop.call_soon_threadsafe(made._stop)
        thread.join(30)
        made._loop.close()
