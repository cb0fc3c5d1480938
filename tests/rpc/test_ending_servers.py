"""Calls that have arrived at a server when it begins to stop, and that no handler has seen: gRPC cancels them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import grpc

from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.server import RpcServer
from tests.servers import free_ports

CALLS = 40
"""Below half of the tokens by which retries are throttled."""
BUSY = 0.5
"""Seconds in which the server's loop takes no calls, while they arrive."""
TIMEOUT = 30.0
SERVICE = "kvquilt.v1.RouterService"
Start = Callable[[int, grpc.GenericRpcHandler], Awaitable[Callable[[], Awaitable[None]]]]
"""Starts a server on a port, and gives what ends it."""


async def of_grpc(port: int, handlers: grpc.GenericRpcHandler) -> Callable[[], Awaitable[None]]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return lambda: server.stop(TIMEOUT)


async def of_ours(port: int, handlers: grpc.GenericRpcHandler) -> Callable[[], Awaitable[None]]:
    server = RpcServer("127.0.0.1", port, [])
    server.server.add_generic_rpc_handlers((handlers,))
    await server.start()
    return lambda: server.drain(TIMEOUT)


class Serving:
    """A server with a loop of its own. The call `end` keeps it busy, and ends the server; another one takes over."""

    def __init__(self, start: Start) -> None:
        (self._port,) = free_ports(1)
        self.address = f"127.0.0.1:{self._port}"
        self.begun, self.busy, self.asked = threading.Event(), threading.Event(), threading.Event()
        self._start = start
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self.begun.wait(TIMEOUT)

    async def _serve(self) -> None:
        ended = asyncio.Event()

        async def ask(request: bytes, _: object) -> bytes:
            if request == b"end":
                self.busy.set()
                time.sleep(BUSY)  # noqa: ASYNC251  the loop is to be busy
                ended.set()
            return request

        method = grpc.unary_unary_rpc_method_handler(ask, bytes, bytes)
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"Ask": method})
        end = await self._start(self._port, handlers)
        self.begun.set()
        await ended.wait()
        await end()
        end = await self._start(self._port, handlers)
        assert await asyncio.to_thread(self.asked.wait, TIMEOUT)
        await end()

    async def failed(self, channel: grpc.aio.Channel) -> set[grpc.StatusCode]:
        """With what calls fail that arrive while the first server's loop is busy."""
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Ask")
        await ask(b"first", timeout=TIMEOUT, wait_for_ready=True)
        end = asyncio.ensure_future(ask(b"end", timeout=TIMEOUT))
        assert await asyncio.to_thread(self.busy.wait, TIMEOUT)
        calls = (ask(b"next", timeout=TIMEOUT, wait_for_ready=True) for _ in range(CALLS))
        answers = await asyncio.gather(end, *calls, return_exceptions=True)
        self.asked.set()
        self._thread.join(TIMEOUT)
        return {answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}


async def test_a_server_of_ours_takes_what_has_arrived_before_it_stops() -> None:
    serving = Serving(of_ours)
    async with grpc.aio.insecure_channel(serving.address) as channel:
        assert await serving.failed(channel) == set()


async def test_what_is_cancelled_all_the_same_is_tried_again_by_our_channel() -> None:
    serving = Serving(of_grpc)
    async with grpc.aio.insecure_channel(serving.address) as channel:
        assert await serving.failed(channel) == {grpc.StatusCode.CANCELLED}
    serving = Serving(of_grpc)
    async with open_channel(serving.address) as channel:
        assert await serving.failed(channel) == set()
