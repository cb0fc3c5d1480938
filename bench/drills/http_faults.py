"""An HTTP proxy that fails as object storage fails: it refuses, dawdles, cuts answers off and resets connections.

What it passes on it passes on unchanged, the header `Host` included: so the signatures of S3 requests hold.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from random import Random

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
"""What S3 says where it asks for fewer requests (error code SlowDown, status 503)."""
_HEAD_LIMIT = 1 << 16
_PIECE = 1 << 14


class Harm(Enum):
    """What happens to a request."""

    NONE = "none"
    SLOW_DOWN = "503"
    SLOW = "slow"
    TRUNCATED = "truncated"
    RESET_ANSWER = "reset in the answer"
    RESET_REQUEST = "reset in the request"


@dataclass
class FaultyHttp:
    """What the proxy does now.

    Attributes:
        harm: what happens to a request that is chosen.
        share: of requests that are chosen.
        pause: seconds before each 16 KiB of a slow answer.
        seed: of the choice.
        harmed: how many requests were.
    """

    target: int
    seed: int
    harm: Harm = Harm.NONE
    share: float = 0.7
    pause: float = 0.25
    harmed: int = 0
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Forward what comes to the target port on loopback; yields the endpoint."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._relayed(reader, writer)
            writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection, one after the other."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=_HEAD_LIMIT)
        try:
            while await self._exchange(reader, writer, far_reader, far_writer):
                pass
        finally:
            far_writer.transport.abort()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether the connection can serve another one."""
        head = await reader.readuntil(b"\r\n\r\n")
        harm = self.harm if self.random.random() < self.share else Harm.NONE
        self.harmed += harm is not Harm.NONE
        size = _length(head)
        if harm is Harm.RESET_REQUEST:
            far_writer.write(head)
            far_writer.write(await reader.readexactly(size // 2))
            await far_writer.drain()
            _reset(writer)
            return False
        if harm is Harm.SLOW_DOWN:
            await reader.readexactly(size)
            lines = (
                f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(SLOW_DOWN)}\r\n\r\n"
            )
            writer.write(lines.encode() + (b"" if head.startswith(b"HEAD ") else SLOW_DOWN))
            await writer.drain()
            return True
        far_writer.write(head)
        await _copy(reader, far_writer, size)
        answer = await far_reader.readuntil(b"\r\n\r\n")
        size = 0 if head.startswith(b"HEAD ") else _length(answer)
        if harm in (Harm.TRUNCATED, Harm.RESET_ANSWER):
            writer.write(answer)
            await _copy(far_reader, writer, size // 2)
            if harm is Harm.RESET_ANSWER:
                _reset(writer)
            return False
        writer.write(answer)
        if size < 0:
            await _copy_chunks(far_reader, writer)
        else:
            await _copy(far_reader, writer, size, self.pause if harm is Harm.SLOW else 0.0)
        return True


def _length(head: bytes) -> int:
    """Bytes of the body; -1 if it comes in chunks."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return -1
    return int(fields.get(b"content-length", b"0"))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int, pause: float = 0.0) -> None:
    while True:
        await asyncio.sleep(pause)
        piece = await reader.readexactly(min(size, _PIECE))
        writer.write(piece)
        await writer.drain()
        size -= len(piece)
        if size <= 0:
            return


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        writer.write(line + await reader.readexactly(size + 2))
        await writer.drain()
        if size == 0:
            return


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by a TCP reset, so that the other end gets an error in place of an end."""
    own = writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
