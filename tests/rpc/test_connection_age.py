"""A connection that has become old is left without a call's failing, and its clients find servers that were added."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.server import RpcServer
from tests.names import Names, name_server
from tests.servers import free_ports

AGE = 1.2
"""Seconds; names are looked up once a second at most."""
CLIENTS = 6
NAME = "routers.demo.svc"
HOSTS = ("127.83.0.1", "127.83.0.2", "127.83.0.3")
"""All of 127.0.0.0/8 is the loopback interface: several addresses of one name, with one port, as in a cluster."""


@asynccontextmanager
async def serving(host: str, port: int, ended: asyncio.Event) -> AsyncIterator[None]:
    """A server whose every message is its address; a stream's second one comes when `ended` is set."""

    async def stream(request: bytes, _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield host.encode()
        if request == b"long":
            await ended.wait()
        yield host.encode()

    server = RpcServer(host, port, [], max_connection_age=AGE)
    method = grpc.unary_stream_rpc_method_handler(stream, bytes, bytes)
    server.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("some.Service", {"Ask": method}),))
    await server.start()
    try:
        yield
    finally:
        await server.drain(0)


@pytest.fixture
def names() -> Iterator[Names]:
    with name_server() as found:
        yield found


async def test_calls_go_to_servers_that_were_added_and_none_fails_and_long_ones_end_where_they_began(
    names: Names,
) -> None:
    (port,) = free_ports(1)
    begun, ended = asyncio.Event(), asyncio.Event()
    answered: Counter[str] = Counter()
    names.addresses[NAME] = [HOSTS[0]]

    async def load(channel: grpc.aio.Channel) -> None:
        ask = channel.unary_stream("/some.Service/Ask")
        while len(answered) < len(HOSTS):
            said = await _all(ask(b"short", timeout=60))
            assert len(set(said)) == 1
            answered[said[0]] += 1
            begun.set()

    async with asyncio.timeout(60), AsyncExitStack() as stack, serving(HOSTS[0], port, ended):
        target = names.target(NAME, port)
        channels = [await stack.enter_async_context(open_channel(target)) for _ in range(CLIENTS)]
        long = asyncio.create_task(_all(channels[0].unary_stream("/some.Service/Ask")(b"long", timeout=60)))
        loads = [asyncio.create_task(load(channel)) for channel in channels]
        await begun.wait()
        async with serving(HOSTS[1], port, ended), serving(HOSTS[2], port, ended):
            names.addresses[NAME] = [*HOSTS]
            await asyncio.gather(*loads)
            ended.set()
            assert await long == [HOSTS[0]] * 2


async def test_servers_that_all_have_been_replaced_are_found_within_seconds(names: Names) -> None:
    """As after a rolling restart: of the addresses that a client knew none is left."""
    (port,) = free_ports(1)
    names.addresses[NAME] = [HOSTS[0]]
    async with asyncio.timeout(60), open_channel(names.target(NAME, port)) as channel:
        ask = channel.unary_stream("/some.Service/Ask")
        async with serving(HOSTS[0], port, asyncio.Event()):
            assert await _all(ask(b"short", timeout=60)) == [HOSTS[0]] * 2
        names.addresses[NAME] = [HOSTS[1]]
        async with serving(HOSTS[1], port, asyncio.Event()):
            # gRPC's default would be to look a name up once in half a minute.
            assert await _all(ask(b"short", timeout=20, wait_for_ready=True)) == [HOSTS[1]] * 2


async def _all(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> list[str]:
    return [message.decode() async for message in call]
