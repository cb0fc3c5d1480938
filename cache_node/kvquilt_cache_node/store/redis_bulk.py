"""One large value from Redis, read from the socket straight to where it stays.

The client library copies a value several times on its way (stream, parser, result), which takes two to three times as
long: docs/decisions/0021-get-path.md. It still makes the connection, with TLS, user and password, and takes it back;
only what comes between a command and the end of its answer is read here. Whatever is not the answer that was expected
closes the connection, and the library asks again.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

_HEAD_BYTES = 64
"""More than `$1048576` and its line's end takes."""


async def fetched(client: Redis, size: int, *words: bytes | str | int) -> bytearray | None:
    """The answer to a command, if that is a value of `size` bytes; `None` if it is not, or did not come.

    Raises:
        RedisError, OSError: there is no connection to be had.
    """
    pool: Any = client.connection_pool  # without types
    connection: AbstractConnection = await pool.get_connection()
    whole = False
    try:
        answer = await _asked(connection, size, words)
        whole = answer is not None
        return answer
    except (RedisError, OSError):
        return None
    finally:
        if not whole:  # what is still to come is nobody's
            await connection.disconnect(nowait=True)
        await pool.release(connection)


async def _asked(connection: AbstractConnection, size: int, words: tuple[bytes | str | int, ...]) -> bytearray | None:
    # The library has no public way to the transport; tests/cache_node/test_redis_bulk.py would see it move.
    transport: Any = connection._writer.transport  # type: ignore[union-attr]
    answer = _Answer(size, transport)
    try:
        transport.writelines(connection.pack_command(*words))
        return await answer.came
    finally:
        answer.end()


class _Answer(asyncio.BufferedProtocol):
    """Takes a transport over until the answer to the command that is sent now has come.

    Everything but data goes on to the protocol that has the transport before and afterwards.
    """

    def __init__(self, size: int, transport: Any) -> None:
        self.came: asyncio.Future[bytearray | None] = asyncio.get_running_loop().create_future()
        self._head = b"$%d\r\n" % size
        self._seen = b""
        self._small = bytearray(_HEAD_BYTES)
        self._value = memoryview(bytearray(size))
        self._got = 0
        self._transport = transport
        self._former: asyncio.Protocol = transport.get_protocol()
        transport.set_protocol(self)

    def end(self) -> None:
        """Give the transport back."""
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._former)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """See `asyncio.BufferedProtocol`."""
        if len(self._seen) < len(self._head):
            return memoryview(self._small)[: len(self._head) - len(self._seen)]
        if self._got < len(self._value):
            return self._value[self._got :]
        return memoryview(self._small)[: len(self._value) + 2 - self._got]

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if len(self._seen) < len(self._head):
            self._seen += self._small[:nbytes]
            if not self._head.startswith(self._seen):
                self._finish(None)
            return
        self._got += nbytes
        if self._got == len(self._value) + 2:
            self._finish(self._value.obj)

    def eof_received(self) -> bool | None:
        """See `asyncio.BufferedProtocol`."""
        self._finish(None)
        return self._former.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._finish(None)
        self._former.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._former.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._former.resume_writing()

    def _finish(self, answer: Any) -> None:
        self.end()
        if not self.came.done():
            self.came.set_result(answer)
